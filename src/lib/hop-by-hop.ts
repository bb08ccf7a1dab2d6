/** Fields of one connection, not of a message (RFC 9110, 7.6.1), and what only a proxy is told. */
export const hopByHop: readonly string[] = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "upgrade",
];
