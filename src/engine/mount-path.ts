import { posix } from "node:path";
import { WarrenError } from "../contracts/errors.ts";

/** Where a mount would break the sandbox or uncover what the runtime hides. */
const reserved = ["/proc", "/sys", "/dev", "/.warren"];

/**
 * The path inside at which something is mounted, without dots and double slashes.
 * @throws WarrenError `invalid_request` naming the field.
 */
export function mountPath(path: string, field: string): string {
  if (path.includes("\0")) throw refuse(field, "path contains null byte");
  if (!path.startsWith("/")) throw refuse(field, "absolute path required");
  if (Buffer.byteLength(path) > 4095) throw refuse(field, "path is longer than 4095 bytes");
  if (path.split("/").includes("..")) throw refuse(field, "path has a '..'");
  const normal = posix.normalize(path).replace(/(.)\/$/, "$1");
  if (normal === "/" || reserved.some((kept) => normal === kept || normal.startsWith(`${kept}/`))) {
    throw refuse(field, `nothing can be mounted at ${normal}`);
  }
  return normal;
}

function refuse(field: string, complaint: string): WarrenError {
  return new WarrenError("invalid_request", `${field}: ${complaint}`);
}
