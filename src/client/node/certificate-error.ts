import { WarrenError } from "../../contracts/errors.ts";

/** Codes of Node for a certificate that fails its check (`tls` documentation, "X509 certificate error codes"). */
const codes = new Set([
  "CERT_CHAIN_TOO_LONG",
  "CERT_HAS_EXPIRED",
  "CERT_NOT_YET_VALID",
  "CERT_REJECTED",
  "CERT_REVOKED",
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "ERR_TLS_CERT_ALTNAME_INVALID",
  "HOSTNAME_MISMATCH",
  "INVALID_CA",
  "INVALID_PURPOSE",
  "PATH_LENGTH_EXCEEDED",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

/** The failure of a call that was not made because the server could not prove who it is; undefined for others. */
export function certificateError(error: unknown): WarrenError | undefined {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (typeof code !== "string" || !codes.has(code)) return undefined;
  return new WarrenError("engine_unavailable", `the server's certificate is not to be trusted: ${message}`, {
    cause: error,
    hint: "name the CA that signed it: WARREN_CA_FILE, --ca-file or NODE_EXTRA_CA_CERTS",
  });
}
