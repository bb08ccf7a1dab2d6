import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { build } from "esbuild";

/**
 * All test files and what they import, as JavaScript in one directory below the checkout, which is given back as a path from
 * there. Node loads that in a fifth of the time that it takes a worker to ask Vite for each module of each file.
 */
export async function bundleTests(root: string): Promise<string> {
  removeLeft(join(root, "dist/test"));
  const out = `dist/test/files-${process.pid}`;
  await build({
    absWorkingDir: root,
    entryPoints: entries(root),
    outdir: out,
    outbase: ".",
    outExtension: { ".js": ".mjs" },
    bundle: true,
    // What two files import is one module in both.
    splitting: true,
    format: "esm",
    platform: "node",
    packages: "external",
    target: "node20",
    sourcemap: "linked",
    sourcesContent: false,
    logLevel: "warning",
    plugins: [
      {
        name: "where-a-module-is",
        setup({ onLoad }) {
          onLoad({ filter: /\.m?[jt]s$/ }, ({ path }) => ({
            contents: readFileSync(path, "utf8").replace(
              /\bimport\.meta\.(url|dirname|filename)\b/g,
              (_, part) => placeOf(relative(root, path), part),
            ),
            loader: path.endsWith(".ts") ? "ts" : "js",
          }));
        },
      },
    ],
  });
  return out;
}

/** An expression for where a source is, in whatever place the checkout shows: ordinary users have it elsewhere. */
function placeOf(path: string, part: string): string {
  const root = `import.meta.url.split("/dist/test/")[0]`;
  if (part === "url") return `(${root} + ${JSON.stringify(`/${path}`)})`;
  const file = part === "filename" ? path : join(path, "..");
  return `(decodeURIComponent(new URL(${root}).pathname) + ${JSON.stringify(`/${file}`)})`;
}

/** Those that Vitest runs, and programs that tests start. */
function entries(root: string): string[] {
  return readdirSync(join(root, "test"), { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(test|inner)\.ts$|^engine\/support\/(crash-child|hold-lock)\.mjs$/.test(name))
    .map((name) => join("test", name));
}

/** Of runs that were killed. */
function removeLeft(dir: string): void {
  mkdirSync(dir, { recursive: true });
  for (const name of readdirSync(dir)) {
    const pid = /^files-(\d+)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      rmSync(join(dir, name), { recursive: true, force: true });
  }
}
