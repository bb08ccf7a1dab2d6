import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { type AddressInfo, createServer, isIPv4 } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { BuildOptions } from "../../src/contracts/runtime.ts";
import { hostNetworks } from "../../src/runtimes/common/open-network.ts";
import { buildContext, tinyImage } from "../../src/testing/build-context.ts";
import { openTestRuntime, type TestRuntime } from "../runtimes/oci/support/open.ts";
import { type Canary, plantCanary } from "./support/canary.ts";
import { buildPrograms } from "./support/programs.ts";

const TIMEOUT_MS = 120_000;
const tag = "wtest-hostile/build:1";

let made: TestRuntime;
let dir = "";
let canary: Canary;
let before: unknown;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "warren-builds-"));
  canary = await plantCanary(join(dir, "canary"));
  await buildPrograms(join(dir, "programs"), ["climb"]);
  made = await openTestRuntime("crun");
});
beforeEach(async () => {
  before = await canary.state();
});
afterEach(async () => {
  expect(await canary.state()).toEqual(before);
  await made.runtime.images.store?.remove(tag);
});
afterAll(async () => {
  await made.close();
  rmSync(dir, { recursive: true });
});

async function* once(bytes: Uint8Array) {
  yield bytes;
}

/** All that a build says, its failure included, which is one of ours. */
async function build(
  context: AsyncIterable<Uint8Array>,
  network: Pick<BuildOptions, "network" | "reach"> = {},
): Promise<string> {
  const said: string[] = [];
  const keep = (progress: object) => void said.push(JSON.stringify(progress));
  const failure = await made.runtime.images.store
    ?.build({ tag, context, onProgress: keep, ...network })
    .then(() => undefined)
    .catch((error: unknown) => error);
  if (failure !== undefined) {
    expect(failure).toBeInstanceOf(WarrenError);
    expect((failure as WarrenError).code).toMatch(/^(invalid_request|image_build_failed|image_not_found)$/);
    said.push((failure as WarrenError).code, (failure as WarrenError).message);
  }
  expect(said.join("\n")).not.toContain(canary.token);
  return said.join("\n");
}

/** A context whose tar holds what `arrange` makes, by GNU tar with these options. */
function packed(arrange: (at: string) => void, ...options: string[]): Buffer {
  const tree = mkdtempSync(join(dir, "tree-"));
  copyFileSync("/bin/busybox", join(tree, "busybox"));
  writeFileSync(
    join(tree, "Dockerfile"),
    `${tinyImage}COPY . /all\nRUN busybox find /all -type f -exec busybox cat {} + | busybox head -c 200; busybox ls -lR /all\n`,
  );
  arrange(tree);
  return execFileSync("tar", ["--create", "--file=-", `--directory=${tree}`, ...options, "."], {
    maxBuffer: 1 << 26,
  });
}

describe("a build context", () => {
  it(
    "with links, absolute names, dots and devices reads and writes nothing of the host",
    async () => {
      const links = packed((at) => {
        symlinkSync(canary.file, join(at, "link"));
        symlinkSync(canary.dir, join(at, "dir"));
        symlinkSync("/proc/1/root", join(at, "root"));
      });
      expect(await build(once(links))).toContain("STEP");

      const target = join(dir, "written");
      const away = (name: string) =>
        packed(
          (at) => writeFileSync(join(at, "evil"), "evil"),
          "--absolute-names",
          `--transform=s,^./evil$,${name},`,
        );
      await build(once(away(target)));
      await build(once(away(`../../../../../../../..${target}`)));
      expect(existsSync(target)).toBe(false);

      const through = packed((at) => {
        mkdirSync(join(at, "a"));
        writeFileSync(join(at, "a/secret"), "evil");
        symlinkSync(canary.dir, join(at, "b"));
      }, "--transform=s,^./a/,b/,");
      await build(once(through));

      const device = packed((at) => execFileSync("mknod", [join(at, "null"), "c", "1", "3"]));
      expect(await build(once(device))).toMatch(/invalid_request.*can't be unpacked/s);

      // Without the guard, on the host: a link is read, and an absolute name written.
      const naive = mkdtempSync(join(dir, "naive-"));
      execFileSync("tar", ["--extract", "--absolute-names", "--file=-", `--directory=${naive}`], {
        input: links,
      });
      expect(readFileSync(join(naive, "link"), "utf8")).toBe(canary.token);
      execFileSync("tar", ["--extract", "--absolute-names", "--file=-", `--directory=${naive}`], {
        input: away(target),
      });
      expect(readFileSync(target, "utf8")).toBe("evil");
    },
    TIMEOUT_MS * 2,
  );

  it(
    "whose steps leave their chroot finds itself in a sandbox",
    async () => {
      const dockerfile = `${tinyImage}COPY climb /climb
RUN ["/climb", "--chroot", "/bin", "${canary.file}"]
RUN busybox cat /proc/self/uid_map /proc/self/status; busybox cat /proc/1/root${canary.file} /proc/1/environ; busybox mknod /null c 1 3; busybox mount -t tmpfs x /bin; busybox true
`;
      const context = mkdtempSync(join(dir, "climb-"));
      copyFileSync(join(dir, "programs/climb"), join(context, "climb"));
      copyFileSync("/bin/busybox", join(context, "busybox"));
      writeFileSync(join(context, "Dockerfile"), dockerfile);
      const said = await build(
        once(execFileSync("tar", ["-cf-", "-C", context, "."], { maxBuffer: 1 << 26 })),
      );
      // It did get out of the chroot: what holds is the sandbox around it.
      expect(said).toContain("escaped");
      expect(said).toMatch(/NoNewPrivs:\\t1/);
      expect(said).toMatch(/Seccomp:\\t2/);
      // Without the sandbox, it is the host.
      const chroot = mkdtempSync(join(dir, "chroot-"));
      mkdirSync(join(chroot, "bin"));
      copyFileSync(join(dir, "programs/climb"), join(chroot, "climb"));
      const bare = execFileSync("chroot", [chroot, "/climb", "--chroot", "/bin", canary.file], {
        encoding: "utf8",
      });
      expect(bare).toContain(canary.token);
    },
    TIMEOUT_MS,
  );

  it(
    "reaches no service of the host, with open network neither",
    async () => {
      const server = createServer((socket) => socket.end("HTTP/1.0 200 OK\r\n\r\nof the host\n"));
      const port = await new Promise<number>((resolve) => {
        server.listen(0, "0.0.0.0", () => resolve((server.address() as AddressInfo).port));
      });
      try {
        // A machine that is in no network has loopback only.
        const own = hostNetworks(networkInterfaces())
          .flatMap((network) => network.split("/").slice(0, 1))
          .filter(isIPv4)
          .slice(0, 2);
        const tries = own.map(
          (address) =>
            `RUN busybox wget -q -O - http://${address}:${port}/ || busybox echo "${address} closed"\n`,
        );
        const context = () => buildContext({ dockerfile: `${tinyImage}${tries.join("")}` });
        const internal = ["127.0.0.0/8", "10.0.0.0/8"];
        const open = { network: "open" as const, reach: { rules: [], internal } };
        for (const network of [{}, open]) {
          const said = await build(context(), network);
          for (const address of own) expect(said).toContain(`"${address} closed"`);
          expect(said).not.toContain("of the host");
        }
        // Without the guard its own address is reached, and still no loopback.
        const unguarded = await build(context(), {
          network: "open",
          reach: { rules: ["+0.0.0.0/0"], internal },
        });
        expect(unguarded).toContain(`"127.0.0.1 closed"`);
        expect(unguarded.includes("of the host")).toBe(own.some((address) => !address.startsWith("127.")));
      } finally {
        server.close();
      }
    },
    TIMEOUT_MS,
  );

  it(
    "can't have its names taken for options, nor its arguments for the builder's own settings",
    async () => {
      const said: string[] = [];
      const dockerfile = `${tinyImage}ARG LD_PRELOAD\nARG PATH_LIKE\nRUN busybox echo "got $PATH_LIKE and $LD_PRELOAD"\n`;
      await made.runtime.images.store?.build({
        tag,
        context: buildContext({ dockerfile }),
        buildArgs: { LD_PRELOAD: "/nonexistent.so", PATH_LIKE: "--isolation=oci" },
        onProgress: (progress) => void said.push(JSON.stringify(progress)),
      });
      expect(said.join("\n")).toContain("got --isolation=oci and /nonexistent.so");
      for (const target of ["--help", "-f"]) {
        const odd = made.runtime.images.store?.build({ tag, context: buildContext({ dockerfile }), target });
        await expect(odd).rejects.toMatchObject({ code: "image_build_failed" });
        const file = made.runtime.images.store?.build({
          tag,
          context: buildContext({ dockerfile }),
          dockerfile: target,
        });
        await expect(file).rejects.toMatchObject({ code: "image_build_failed" });
      }
    },
    TIMEOUT_MS,
  );
});
