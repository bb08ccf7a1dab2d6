import { fileURLToPath } from "node:url";

/** What Node is told to run a program beside this file: its bundled form (test/setup/bundle.ts), where there is one. */
export function argvOf(name: string): string[] {
  const files = process.env.WARREN_TEST_FILES;
  if (files !== undefined)
    return [fileURLToPath(new URL(`../../../${files}/test/engine/support/${name}`, import.meta.url))];
  const beside = (file: string) => fileURLToPath(new URL(file, import.meta.url));
  return ["--import", beside("typescript.mjs"), beside(name)];
}
