import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { expect, it } from "vitest";
import type { ApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { exportedBlobs } from "../../../src/runtimes/containers/snapshots/exported-blobs.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { piecesOf } from "../../../src/testing/tar.ts";
import { rawTar } from "../common/support/raw-tar.ts";

const digest = (content: string | Buffer) => createHash("sha256").update(content).digest("hex");
const layer = { mediaType: "application/x.gzip", digest: `sha256:${digest("layer")}`, size: 5 };
const manifestOf = (...layers: unknown[]) => JSON.stringify({ schemaVersion: 2, layers });
const blob = (content: string | Buffer) => ({ name: `blobs/sha256/${digest(content)}`, content });

/** Of an image with one layer, whose export is this tar. */
async function blobs(manifest: string, tar: Buffer) {
  const client = { stream: async () => Readable.from(piecesOf(tar, 700)) } as unknown as ApiClient;
  return await exportedBlobs(client, { Id: `sha256:${digest(manifest)}`, RootFS: { Layers: ["sha256:x"] } });
}

it("finds an image's manifest in its export, whatever else is in that", async () => {
  const manifest = manifestOf(layer);
  const large = blob(Buffer.alloc(3_000_001, "x"));
  const tar = rawTar({ name: "blobs/", type: "5" }, large, blob(manifest), blob("{}"), blob("layer"));
  expect(await blobs(manifest, tar)).toEqual([layer]);
});

it("refuses an export that is none, or not of this image", async () => {
  const manifest = manifestOf(layer);
  const twice = manifestOf(layer, layer);
  const odd = manifestOf({ ...layer, digest: "../../etc/passwd" });
  const large = `${manifest}${" ".repeat(1 << 20)}`;
  const link = rawTar({ ...blob(manifest), type: "2", link: "/etc/passwd" });
  for (const [wanted, tar] of [
    [manifest, rawTar(blob(twice))],
    [twice, rawTar(blob(twice))],
    [odd, rawTar(blob(odd))],
    ["{", rawTar(blob("{"))],
    [large, rawTar(blob(large))],
    [manifest, link],
    [manifest, rawTar(blob(manifest)).subarray(0, 600)],
    [manifest, Buffer.from("<html>")],
  ] as const) {
    await expectFailure(blobs(wanted, tar), "runtime_failed");
  }
});
