import { execFileSync } from "node:child_process";
import { linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkedTar } from "../../src/lib/tar-entries.ts";
import { piecesOf, tarOf } from "../../src/testing/tar.ts";
import { tempDir } from "../engine/support/temp-dir.ts";

const NO_LIMIT = Number.POSITIVE_INFINITY;

async function through(bytes: Uint8Array, size = 1 << 16, maxBytes = NO_LIMIT): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of checkedTar(piecesOf(bytes, size), maxBytes)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** All of the tar, but for what it is filled up with after its end mark. */
function expectWhole(passed: Buffer, tar: Buffer): void {
  expect(passed.equals(tar.subarray(0, passed.length))).toBe(true);
  expect(tar.subarray(passed.length).every((byte) => byte === 0)).toBe(true);
}

/** What GNU tar makes of a directory with all that may be in one. */
function gnuTar(...options: string[]): Buffer {
  using dir = tempDir();
  const at = (name: string) => join(dir.path, name);
  mkdirSync(at("d/e"), { recursive: true });
  writeFileSync(at("d/file"), Buffer.alloc(100_001, 7));
  writeFileSync(at("d/empty"), "");
  writeFileSync(at(`d/${"long".repeat(60)}`), "long");
  writeFileSync(at("d/ünï\n"), "x");
  writeFileSync(at("d/exact"), Buffer.alloc(1024));
  symlinkSync("../d/file", at("d/link"));
  linkSync(at("d/file"), at("d/hard"));
  writeFileSync(at("d/holes"), "begin");
  truncateSync(at("d/holes"), 5_000_000);
  writeFileSync(at("d/holes"), "end", { flag: "a" });
  return execFileSync("tar", ["-c", ...options, "-C", dir.path, "."], { maxBuffer: 1 << 28 });
}

describe("a tar", () => {
  it.each(["ustar", "gnu", "posix", "v7", "oldgnu"])("of the format %s passes unchanged", async (format) => {
    const names = format === "v7" || format === "ustar" ? ["--exclude=*long*"] : [];
    const tar = gnuTar(`--format=${format}`, ...names);
    for (const size of [1 << 20, 512, 1000]) expectWhole(await through(tar, size), tar);
  });

  it("with sparse files passes in the format of POSIX, and is refused in GNU's own", async () => {
    const posix = gnuTar("--sparse", "--format=posix");
    expect(posix.length).toBeLessThan(1_000_000);
    expectWhole(await through(posix), posix);
    await expect(through(gnuTar("--sparse", "--format=gnu"))).rejects.toMatchObject({
      code: "invalid_request",
      hint: expect.stringContaining("--sparse"),
    });
  });

  it("passes in whatever pieces it comes, and never when it is cut off", async () => {
    const files = fc.dictionary(
      fc.stringMatching(/^[a-zé]{1,120}$/),
      fc.uint8Array({ maxLength: 3000 }).map((content) => ({ content })),
      { maxKeys: 5 },
    );
    await fc.assert(
      fc.asyncProperty(files, fc.integer({ min: 1, max: 3000 }), fc.nat(), async (entries, size, cut) => {
        const tar = await tarOf(entries);
        expect((await through(tar, size)).equals(tar)).toBe(true);
        // The end is the first block of zeros that is no data; what comes after it says nothing.
        const part = tar.subarray(0, cut % (tar.length - 1023));
        await expect(through(part, size)).rejects.toMatchObject({ code: "invalid_request" });
      }),
      { numRuns: 60 },
    );
  });

  it("is broken where a header is missing", async () => {
    const tar = await tarOf({ a: "x".repeat(600), b: "y" });
    const second = 512 + 1024;
    for (const at of [second, second + 100, second + 511]) {
      const changed = Buffer.from(tar);
      changed[at] = (changed[at] ?? 0) ^ 0xff;
      await expect(through(changed)).rejects.toThrow(/broken/);
    }
    const liar = Buffer.from(tar);
    liar.write("77777777777\0", 124, "latin1");
    await expect(through(liar)).rejects.toThrow(/not a tar/);
  });

  it("may have so many bytes and no more", async () => {
    const tar = await tarOf({ a: "x".repeat(5000) });
    expect((await through(tar, 512, tar.length)).length).toBe(tar.length);
    await expect(through(tar, 512, tar.length - 1)).rejects.toMatchObject({ code: "too_large" });
    // Zeros without end are a tar that has ended, and count as well.
    async function* endless() {
      yield tar;
      for (;;) yield Buffer.alloc(65_536);
    }
    const reading = (async () => {
      for await (const _ of checkedTar(endless(), 10_000_000));
    })();
    await expect(reading).rejects.toMatchObject({ code: "too_large" });
  });
});

it("passes nothing on before it has seen a header", async () => {
  const passed: Uint8Array[] = [];
  const reading = (async () => {
    for await (const chunk of checkedTar(piecesOf(Buffer.from("#!/bin/sh\n".repeat(200)), 100), NO_LIMIT)) {
      passed.push(chunk);
    }
  })();
  await expect(reading).rejects.toMatchObject({ code: "invalid_request" });
  expect(passed).toEqual([]);
});

it.each([
  ["gzip", ["gzip", "-c"]],
  ["zstd", ["zstd", "-c"]],
  ["xz", ["xz", "-c"]],
  ["bzip2", ["bzip2", "-c"]],
])(
  "tells that a tar is compressed with %s, and how to make it plain",
  async (name, [program = "", ...args]) => {
    const packed = execFileSync(program, args, { input: await tarOf({ a: "x".repeat(5000) }) });
    for (const size of [1, 7, 65_536]) {
      await expect(through(packed, size)).rejects.toMatchObject({
        message: `the tar is compressed with ${name}`,
        hint: expect.stringContaining(`${name} -dc`),
      });
    }
  },
);
