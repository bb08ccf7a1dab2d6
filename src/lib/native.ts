import { fileURLToPath } from "node:url";

/** Absolute path of one of our native programs; the same from `src/` and from `dist/`. */
export function nativeProgram(name: "warren-guest" | "warren-launcher" | "warren-seccomp"): string {
  return fileURLToPath(new URL(`../../native/build/${name}`, import.meta.url));
}

export type GuestArch = "x64" | "arm64";

/** Where the guest for Linux on this architecture may be: beside ours, or it is ours. */
export function guestProgramOf(arch: GuestArch): string[] {
  const ours = nativeProgram("warren-guest");
  return [`${ours}-linux-${arch}`, ours];
}
