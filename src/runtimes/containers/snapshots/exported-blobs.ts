import { z } from "zod";
import { WarrenError } from "../../../contracts/errors.ts";
import { jsonOrUndefined } from "../../../lib/parse.ts";
import { checkedEntries } from "../../../lib/tar-entries.ts";
import { type ImageInspection, readAnswer } from "../answers.ts";
import type { ApiClient } from "../api-client.ts";
import { imageId, imagePath } from "../images/lookup.ts";
import type { Blob } from "./archive.ts";

/** Of a manifest: each layer takes some 150 bytes of it. */
const MAX_MANIFEST_BYTES = 1024 * 1024;

const Manifest = z.object({
  layers: z.array(
    z.object({
      mediaType: z.string().max(256),
      digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
      size: z.number().int().nonnegative(),
    }),
  ),
});

/**
 * What the layers of an image are packed as in containerd, where its id is its manifest's digest. No answer of Docker's tells it but the
 * whole image: all of it is read, and nothing else kept.
 * @throws WarrenError `runtime_failed`
 */
export async function exportedBlobs(client: ApiClient, image: ImageInspection): Promise<readonly Blob[]> {
  const id = imageId(image.Id);
  const answer = await client.stream({ path: imagePath(id, "/get"), timeoutMs: 0 });
  const content = await fileOf(answer, `blobs/${id.replace(":", "/")}`);
  const { layers } = readAnswer(Manifest, jsonOrUndefined(content?.toString("utf8") ?? ""));
  if (layers.length === image.RootFS?.Layers?.length) return layers;
  throw new WarrenError(
    "runtime_failed",
    "the engine does not tell what the layers of an image are packed as",
  );
}

/** Of a tar; undefined when it isn't there or is too large. All of the tar is read. */
async function fileOf(tar: AsyncIterable<Uint8Array>, name: string): Promise<Buffer | undefined> {
  let found: { size: number; pieces: Uint8Array[] } | undefined;
  let isHeader = false;
  let isWanted = false;
  const entries = checkedEntries(tar, {
    code: "runtime_failed",
    maxBytes: Number.MAX_SAFE_INTEGER,
    onEntry(entry) {
      isHeader = true;
      isWanted = entry.name === name && entry.type === "0" && entry.size <= MAX_MANIFEST_BYTES;
      if (isWanted) found = { size: entry.size, pieces: [] };
    },
  });
  for await (const piece of entries) {
    // Each is told of before its header comes.
    if (isHeader) isHeader = false;
    else if (isWanted) found?.pieces.push(piece);
  }
  return found && Buffer.concat(found.pieces).subarray(0, found.size);
}
