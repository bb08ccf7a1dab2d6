/** Numbers of the guest protocol; docs/wire/guest.md is the reference. */

export const PROTOCOL = 1;
export const HEADER_BYTES = 5;

/** Of INFO: the guest captures connections. */
export const FEATURE_CAPTURE = 1;
/** It listens for services of the host. */
export const FEATURE_SERVICES = 2;

/** Largest payload of a request. */
export const MAX_REQUEST_BYTES = 1 << 20;
/** Largest payload of a DATA, STDOUT or STDERR frame, either way. */
export const MAX_DATA_BYTES = 128 << 10;
/** Largest payload of any other reply. */
export const MAX_REPLY_BYTES = 64 << 10;

export const requests = {
  hello: 0x01,
  spawn: 0x02,
  wait: 0x03,
  shutdown: 0x04,
  logs: 0x05,
  read: 0x10,
  write: 0x11,
  stat: 0x12,
  list: 0x13,
  mkdir: 0x14,
  rename: 0x15,
  remove: 0x16,
  chmod: 0x17,
  watch: 0x18,
  dial: 0x20,
  accept: 0x21,
  listen: 0x22,
  datagrams: 0x23,
} as const;

/** What the host sends later on a connection. */
export const inputs = {
  data: 0x40,
  eof: 0x41,
  resize: 0x42,
  signal: 0x43,
  kill: 0x44,
  datagram: 0x45,
  endFlow: 0x46,
} as const;

export const replies = {
  ok: 0x80,
  error: 0x81,
  info: 0x82,
  started: 0x83,
  stdout: 0x84,
  stderr: 0x85,
  exit: 0x86,
  stat: 0x87,
  entry: 0x88,
  data: 0x89,
  end: 0x8a,
  event: 0x8b,
  log: 0x8c,
  datagram: 0x8e,
} as const;

/** The first byte of what ACCEPT is answered with. */
export const acceptedKinds = { proxy: 0, captured: 1, service: 2 } as const;
export const spawnFlags = { tty: 1, stdin: 2, detached: 4 } as const;
export const writeFlags = { parents: 1, append: 2, mustNotExist: 4 } as const;
export const exitFlags = { timedOut: 1, stdoutCut: 2, stderrCut: 4, killed: 8 } as const;

/** Frames whose payload is handed on in pieces, as it arrives. */
export function isStreamed(type: number): boolean {
  return type === replies.stdout || type === replies.stderr || type === replies.data;
}
