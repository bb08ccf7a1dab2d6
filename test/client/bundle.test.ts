import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { expect, it } from "vitest";

it("the browser client bundles without Node's modules and without zod", async () => {
  const result = await build({
    entryPoints: [fileURLToPath(new URL("../../src/client/index.ts", import.meta.url))],
    bundle: true,
    platform: "browser",
    format: "esm",
    target: "es2022",
    write: false,
    metafile: true,
    logLevel: "silent",
  });
  const inputs = Object.keys(result.metafile.inputs);
  expect(inputs.filter((path) => !/(^|\/)src\/(client|contracts)\//.test(path))).toEqual([]);
  expect(inputs.filter((path) => path.includes("client/node/"))).toEqual([]);
  const imports = Object.values(result.metafile.inputs).flatMap((input) =>
    input.imports.map(({ path }) => path),
  );
  expect(imports.filter((path) => path.startsWith("node:") || path.includes("zod"))).toEqual([]);
  // Small enough that a page may load it without a thought.
  expect(result.outputFiles[0]?.contents.length).toBeLessThan(64 * 1024);
});
