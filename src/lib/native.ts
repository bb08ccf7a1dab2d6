import { fileURLToPath } from "node:url";

/** Absolute path of one of our native programs; the same from `src/` and from `dist/`. */
export function nativeProgram(name: "warren-guest" | "warren-launcher" | "warren-seccomp"): string {
  return fileURLToPath(new URL(`../../native/build/${name}`, import.meta.url));
}
