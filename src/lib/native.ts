import { join } from "node:path";

/** Absolute path of one of our native programs; the same from `src/` and from `dist/`. */
export function nativeProgram(name: "warren-guest" | "warren-launcher" | "warren-seccomp"): string {
  return join(import.meta.dirname, "../../native/build", name);
}

export type GuestArch = "x64" | "arm64";

/** Where the guest for Linux on this architecture may be: beside ours, or it is ours. */
export function guestProgramOf(arch: GuestArch): string[] {
  const ours = nativeProgram("warren-guest");
  return [`${ours}-linux-${arch}`, ours];
}
