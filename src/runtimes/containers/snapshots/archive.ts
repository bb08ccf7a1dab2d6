import { createHash } from "node:crypto";
import { endOfTar } from "../../../lib/tar-entries.ts";
import { tarFile } from "../../../lib/tar-file.ts";

export interface SnapshotImage {
  /** Complete, with its tag. */
  name: string;
  labels: Readonly<Record<string, string>>;
  architecture: string;
  variant?: string;
  os: string;
  /** Digests of what is unpacked, the lowest first. The engine has them all. */
  layers: readonly string[];
  /** What they are packed as, where the engine knows them by that. */
  blobs?: readonly Blob[];
  createdAt: Date;
}

/** As a manifest names it. */
export interface Blob {
  mediaType: string;
  digest: string;
  size: number;
}

/** `docker`: what all of Docker's own stores take. `oci`: what Podman and containerd take. */
export type ArchiveFormat = "docker" | "oci";

/**
 * An image as an archive without its layers, which an engine that has them takes from its own store. An engine's commit writes
 * the container's environment and command into the image and can't be told not to; here nothing is but what is said.
 */
export function snapshotArchive(image: SnapshotImage, format: ArchiveFormat): Buffer {
  const config = Buffer.from(JSON.stringify(configOf(image)));
  const files = format === "oci" ? ociLayout(image, config) : dockerArchive(image, config);
  return Buffer.concat([...files.map(([name, content]) => tarFile(name, 0o644, content)), endOfTar]);
}

type Files = [name: string, content: Buffer][];

function configOf({ labels, architecture, variant, os, layers, createdAt }: SnapshotImage): object {
  const created = createdAt.toISOString();
  return {
    created,
    architecture,
    ...(variant === undefined ? {} : { variant }),
    os,
    config: { Labels: labels },
    rootfs: { type: "layers", diff_ids: layers },
    // Of its own: Podman takes an image whose history begins as another's for that one's child.
    history: layers.map(() => ({ created, created_by: "warren snapshot" })),
  };
}

function dockerArchive({ name, layers }: SnapshotImage, config: Buffer): Files {
  const file = `${hexDigest(config)}.json`;
  // Docker looks into none whose layer it has.
  const Layers = layers.map((_, index) => `absent/${index}.tar`);
  return [
    [file, config],
    ["manifest.json", json([{ Config: file, RepoTags: [name], Layers }])],
  ];
}

function ociLayout({ name, layers, blobs }: SnapshotImage, config: Buffer): Files {
  const blob = (content: Buffer) => ({ digest: `sha256:${hexDigest(content)}`, size: content.length });
  const type = (what: string) => `application/vnd.oci.image.${what}`;
  const manifest = json({
    schemaVersion: 2,
    mediaType: type("manifest.v1+json"),
    config: { mediaType: type("config.v1+json"), ...blob(config) },
    // How long they would be in the archive Podman doesn't ask.
    layers: blobs ?? layers.map((digest) => ({ mediaType: type("layer.v1.tar"), digest, size: 0 })),
  });
  const index = json({
    schemaVersion: 2,
    manifests: [
      {
        mediaType: type("manifest.v1+json"),
        ...blob(manifest),
        annotations: { "org.opencontainers.image.ref.name": name },
      },
    ],
  });
  return [
    ["oci-layout", json({ imageLayoutVersion: "1.0.0" })],
    ["index.json", index],
    ...[config, manifest].map((content): Files[number] => [`blobs/sha256/${hexDigest(content)}`, content]),
  ];
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}

function hexDigest(content: Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}
