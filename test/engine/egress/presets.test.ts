import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { compilePolicy } from "../../../src/engine/egress/policy.ts";
import { parseRule } from "../../../src/engine/egress/rules.ts";
import { parseHost } from "../../../src/lib/host-name.ts";
import { codeHosts } from "../../../src/lib/presets/code-hosts.ts";
import { createPresets, type presetNames, projectRules } from "../../../src/lib/presets/presets.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { tempDir } from "../support/temp-dir.ts";

/** A machine with these files (`~` is the home) and variables. */
function machine(files: Record<string, string>, variables: Record<string, string> = {}) {
  const dir = tempDir();
  const home = join(dir.path, "home");
  for (const [path, text] of Object.entries(files)) {
    const at = join(path.startsWith("~/") ? home : dir.path, path.replace(/^~/, ""));
    mkdirSync(dirname(at), { recursive: true });
    writeFileSync(at, text);
  }
  const presets = createPresets({ home, root: dir.path, variable: (name) => variables[name] });
  return {
    [Symbol.dispose]: () => dir[Symbol.dispose](),
    dir: dir.path,
    presets,
    rules: (name: (typeof presetNames)[number] = "registries") => presets(name).map(({ rule }) => rule),
  };
}

const SHIPPED = {
  "/usr/lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js":
    "const x = {\n  other: new Definition('other', { default: 'https://no.test/' }),\n  registry: new Definition('registry', {\n    default: 'https://npm.default.test/',\n    type: url,\n  }),\n}\n",
  "/usr/lib/python3/dist-packages/pip/_internal/models/index.py":
    'PyPI = PackageIndex("https://pip.default.test/", file_storage_domain="files.default.test")\nTestPyPI = PackageIndex(\n    "https://no.test/", file_storage_domain="no.test"\n)\n',
  "/usr/local/go/go.env": "GOPROXY=https://go.default.test,direct\nGOSUMDB=sum.default.test\n",
};
const npm = ["npm.default.test:443"];
const pypi = ["pip.default.test:443", "files.default.test:443"];
const go = ["go.default.test:443", "sum.default.test:443"];

const without = (...gone: string[]) => [...npm, ...pypi, ...go].filter((rule) => !gone.includes(rule));

describe("the preset registries", () => {
  it("has what the package managers come with where nothing is configured, each on its port alone", () => {
    using none = machine({});
    expect(none.rules()).toEqual([]);
    using bare = machine(SHIPPED);
    expect(bare.rules().sort()).toEqual(without().sort());
    const policy = compilePolicy({ allow: ["preset:registries"], deny: [] }, bare.presets);
    expect(policy.decide("npm.default.test", 443)).toMatchObject({
      allowed: true,
      rule: "npm.default.test:443",
      preset: "preset:registries",
      reason: "allowed by npm.default.test:443 of preset:registries",
    });
    expect(policy.decide("npm.default.test", 80).allowed).toBe(false);
    expect(policy.decide("npm.default.test.evil.test", 443).allowed).toBe(false);
    expect(policy.decide("github.com", 443).allowed).toBe(false);
  });

  it("knows npm's own default, as the npm here has it", () => {
    const presets = createPresets({ home: "/nonexistent", variable: () => undefined });
    const own = presets("registries").filter(({ from }) => /^npm, .*definitions\.js$/.test(from));
    expect(own).toHaveLength(1);
    expect(own[0]?.rule).toMatch(/^[a-z0-9.-]+:443$/);
  });

  // Each: a file or variable, the rules that it brings, and those that it takes the place of.
  it.each<[string, Record<string, string>, Record<string, string>, string[], string[]]>([
    [
      "~/.npmrc",
      {
        "~/.npmrc":
          "registry=https://user:hunter2@npm.corp.test/x/\n@a:registry = http://10.0.0.7:4873\n//npm.corp.test/:_authToken=hunter2\n",
      },
      {},
      ["internal:npm.corp.test:443", "10.0.0.7:4873"],
      npm,
    ],
    [
      "a scope alone",
      { "~/.npmrc": "; registry=https://no.test\n@a:registry=https://npm.corp.test/" },
      {},
      ["internal:npm.corp.test:443"],
      [],
    ],
    [
      "the global npmrc",
      { "/etc/npmrc": "registry=https://npm.corp.test:8443\r\n" },
      {},
      ["internal:npm.corp.test:8443"],
      npm,
    ],
    [
      "npm's variable",
      {},
      { npm_config_registry: "https://npm.corp.test" },
      ["internal:npm.corp.test:443"],
      npm,
    ],
    [
      "yarn's first",
      { "~/.yarnrc": 'registry "https://yarn.corp.test/"\n' },
      {},
      ["internal:yarn.corp.test:443"],
      [],
    ],
    [
      "yarn's later",
      { "~/.yarnrc.yml": 'npmRegistryServer: "https://yarn.corp.test"\n' },
      {},
      ["internal:yarn.corp.test:443"],
      [],
    ],
    [
      "cargo's replacement",
      {
        "~/.cargo/config.toml":
          '[source.crates-io]\nreplace-with = "corp"\n[source.corp]\nregistry = "sparse+https://cargo.corp.test/index/"\n',
      },
      {},
      ["internal:cargo.corp.test:443"],
      [],
    ],
    [
      "one more of cargo's",
      { "~/.cargo/config.toml": '[registries]\ncorp = { index = "sparse+https://cargo.corp.test/" }\n' },
      {},
      ["internal:cargo.corp.test:443"],
      [],
    ],
    [
      "go's file",
      {
        "~/.config/go/env":
          "GOFLAGS=-mod=mod\nGOPROXY=https://go.corp.test|http://go2.corp.test:81,direct\nGOSUMDB=off\n",
      },
      {},
      ["internal:go.corp.test:443", "internal:go2.corp.test:81"],
      go,
    ],
    [
      "go's checksums",
      {},
      { GOSUMDB: "sum.corp.test" },
      ["internal:sum.corp.test:443"],
      ["sum.default.test:443"],
    ],
    [
      "maven",
      {
        "~/.m2/settings.xml":
          "<settings><!-- <url>https://no.test</url> --><mirrors><mirror>\n<mirrorOf>*</mirrorOf>\n<url> https://maven.corp.test/repo </url>\n</mirror></mirrors></settings>",
      },
      {},
      ["internal:maven.corp.test:443"],
      [],
    ],
    [
      "bundler",
      { "~/.bundle/config": '---\nBUNDLE_MIRROR__ALL: "https://gems.corp.test/"\n' },
      {},
      ["internal:gems.corp.test:443"],
      [],
    ],
    [
      "gem",
      { "~/.gemrc": "---\n:sources:\n- https://gems.corp.test/\n" },
      {},
      ["internal:gems.corp.test:443"],
      [],
    ],
    [
      "composer",
      {
        "~/.config/composer/config.json":
          '{"repositories":{"corp":{"type":"composer","url":"https://php.corp.test"},"packagist.org":false}}',
      },
      {},
      ["internal:php.corp.test:443"],
      [],
    ],
    [
      "nuget",
      {
        "~/.nuget/NuGet/NuGet.Config":
          '<configuration><packageSources><clear />\n<add key="corp" value="https://nuget.corp.test/v3/index.json" /></packageSources></configuration>',
      },
      {},
      ["internal:nuget.corp.test:443"],
      [],
    ],
    [
      "conda",
      { "~/.condarc": "channels:\n  - conda-forge\nchannel_alias: https://conda.corp.test\n" },
      {},
      ["internal:conda.corp.test:443"],
      [],
    ],
    [
      "apt",
      {
        "/etc/apt/sources.list":
          "deb [signed-by=/k.gpg] http://apt.corp.test/debian stable main\n# deb http://no.test x\n",
        "/etc/apt/sources.list.d/x.sources":
          "Types: deb\nURIs: https://deb2.corp.test/ mirror+http://deb3.corp.test/\n",
        "/etc/apt/sources.list.d/x.save": "deb http://no.test x",
      },
      {},
      ["internal:apt.corp.test:80", "internal:deb2.corp.test:443", "internal:deb3.corp.test:80"],
      [],
    ],
    ["rustup", {}, { RUSTUP_DIST_SERVER: "https://rust.corp.test" }, ["internal:rust.corp.test:443"], []],
    [
      "what is no URL of the web",
      { "~/.npmrc": "registry=file:///x\n@a:registry=https://${HOST}/\n@b:registry=https://a_b..c/\n" },
      {},
      [],
      npm,
    ],
  ])("learns from %s", (_what, files, variables, added, replaced) => {
    using here = machine({ ...SHIPPED, ...files }, variables);
    expect([...here.rules()].sort()).toEqual([...without(...replaced), ...added].sort());
    expect(JSON.stringify(here.presets("registries"))).not.toContain("hunter2");
    for (const rule of here.rules()) parseRule(rule);
  });

  it("learns pip's and uv's index, on lines of its own too", () => {
    using here = machine({
      ...SHIPPED,
      "~/.config/pip/pip.conf":
        "[global]\nindex-url = https://pypi.corp.test/simple\nextra-index-url =\n    https://more.corp.test/simple\n\n[install]\ntrusted-host = no.test\n",
      "~/.config/uv/uv.toml": '[[index]]\nurl = "https://uv.corp.test/simple"\ndefault = true\n',
    });
    const added = ["internal:pypi.corp.test:443", "internal:more.corp.test:443", "internal:uv.corp.test:443"];
    expect([...here.rules()].sort()).toEqual([...without(...pypi), ...added].sort());
  });

  it("reads nothing that is too large, no file, or too long a line, and waits for nobody", () => {
    using here = machine({
      "~/.npmrc": `registry=https://npm.corp.test/\n${"#".repeat(300 * 1024)}`,
      "~/.yarnrc": `registry "https://yarn.corp.test/${"a".repeat(5000)}"`,
      "~/.cargo/x": "",
    });
    execFileSync("mkfifo", [join(here.dir, "home/.gemrc"), join(here.dir, "home/.cargo/config.toml")]);
    expect(here.rules()).toEqual([]);
  });
});

describe("the preset dev", () => {
  it("is the registries and the hosts of code, and nothing twice", () => {
    using here = machine({ "~/.npmrc": "registry=https://npm.corp.test/" });
    const rules = here.rules("dev");
    expect(new Set(rules)).toEqual(new Set([...here.rules("registries"), ...codeHosts]));
    expect(rules.length).toBe(new Set(rules).size);
    // What mino's preset of this name has, beside registries.
    const minos = [
      "github.com:443",
      "github.com:22",
      "api.github.com:443",
      "api.anthropic.com:443",
      "api.openai.com:443",
    ];
    for (const rule of minos) expect(rules).toContain(rule);
    for (const rule of codeHosts) {
      expect(parseRule(rule)).toMatchObject({ target: { kind: "name" } });
      expect(parseHost(rule.split(":")[0] ?? "")).toBeDefined();
    }
  });
});

describe("presets in rules", () => {
  it("lead to a mirror inside only where the owner has named it, and on its port", () => {
    using here = machine({ ...SHIPPED, "~/.npmrc": "registry=https://npm.corp.test/" });
    const policy = compilePolicy({ allow: ["preset:registries"], deny: [] }, here.presets);
    const mirror = { kind: "name", name: "npm.corp.test" } as const;
    const pypiHost = { kind: "name", name: "pip.default.test" } as const;
    expect(policy.decideAddress(mirror, "10.0.0.9", 443).allowed).toBe(true);
    expect(policy.decideAddress(mirror, "10.0.0.9", 80).allowed).toBe(false);
    expect(policy.decideAddress(pypiHost, "10.0.0.9", 443)).toMatchObject({
      allowed: false,
      cause: "internal",
    });
  });

  it("can be denied, and give way to a denied host", () => {
    using here = machine(SHIPPED);
    const rules = { allow: ["preset:dev"], deny: ["preset:registries", "github.com"] };
    const policy = compilePolicy(rules, here.presets);
    expect(policy.decide("pip.default.test", 443)).toMatchObject({
      allowed: false,
      preset: "preset:registries",
    });
    expect(policy.decide("github.com", 443)).toMatchObject({ allowed: false, rule: "github.com" });
    expect(policy.decide("api.github.com", 443).allowed).toBe(true);
  });

  it.each(["preset:", "preset:nothing", "preset:dev:443", "preset:__proto__", "preset:constructor"])(
    "refuses %j",
    async (rule) => {
      const compiled = Promise.resolve().then(() => compilePolicy({ allow: [rule], deny: [] }));
      await expectFailure(compiled, "invalid_request");
    },
  );
});

it("reads a project's own files when asked, and trusts none of them with an internal address", () => {
  using here = machine({
    "/p/.npmrc": "registry=https://npm.corp.test/\n@x:registry=http://127.0.0.1:4873/\n",
    "/p/composer.json": '{"repositories":[{"type":"vcs","url":"https://git.corp.test/a"}]}',
  });
  expect(projectRules(join(here.dir, "p"))).toEqual([
    { rule: "npm.corp.test:443", from: "npm, .npmrc" },
    { rule: "git.corp.test:443", from: "composer, composer.json" },
  ]);
  expect(projectRules(join(here.dir, "nothing"))).toEqual([]);
});
