import { readFileSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { mainFile, openWorkspace, run } from "./workspace.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

describe("the built command line", () => {
  it("holds nothing of the engine where short commands start", () => {
    const { sources } = JSON.parse(readFileSync(`${root}dist/cli/cli.js.map`, "utf8")) as {
      sources: string[];
    };
    const packages = new Set(sources.map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]));
    packages.delete(undefined);
    expect([...packages].sort()).toEqual(["commander", "ws"]);
    expect(sources.filter((path) => /src\/(engine|server|runtimes|guest)\//.test(path))).toEqual([]);
  });

  it("starts from V8's code cache where it fits, and without it where it does not", async () => {
    expect(statSync(mainFile).mode & 0o111).toBe(0o111);
    const probe = `const { Script } = require("node:vm");
      const read = (name) => require("node:fs").readFileSync(process.argv[1] + name);
      const script = new Script(read("cli.js").toString(), { filename: "cli.js", cachedData: read("cli.cache") });
      process.stdout.write(String(script.cachedDataRejected));`;
    const rejected = async (...flags: string[]) =>
      (await run(process.execPath, [...flags, "-e", probe, `${root}dist/cli/`], {})).stdout.toString();
    expect(await rejected()).toBe("false");
    expect(await rejected("--no-lazy")).toBe("true");
    await using box = openWorkspace();
    const version = await run(process.execPath, ["--no-lazy", mainFile, "version"], box.env);
    expect(version.stdout.toString()).toBe(await box.ok(["version"]));
  });

  it("is what npx runs in the checkout", async () => {
    await using box = openWorkspace();
    // npx links a checkout's own programs in its cache, which must not be the user's here.
    const env = { ...box.env, npm_config_cache: `${box.dir}/npm`, npm_config_update_notifier: "false" };
    const line = 'cd "$1" && npx --offline warren version --json';
    const { code, stdout } = await run("sh", ["-c", line, "sh", root], env);
    expect(code).toBe(0);
    expect(JSON.parse(stdout.toString()).client.version).toBe(
      JSON.parse(readFileSync(`${root}package.json`, "utf8")).version,
    );
  });
});
