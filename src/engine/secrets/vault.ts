import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { chmod, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { OnStep } from "../../contracts/steps.ts";
import { isGone, noSpace } from "../../lib/files.ts";

/** A secret's value, and what stands for it inside. */
const Entry = z.object({ value: z.string(), placeholder: z.string() });
export type Entry = z.infer<typeof Entry>;
const Entries = z.record(z.string(), Entry);

/** Bytes of AES-256-GCM: of its key, its nonce (NIST SP 800-38D, 8.2) and its tag. */
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const cipher = "aes-256-gcm";

/**
 * Values of secrets on disk: a file for each sandbox and each snapshot, encrypted with a key in a file beside them. What one has of
 * another kind has a name behind a dot, `ID.KIND`, in the place of its id.
 */
export interface Vault {
  /** By the secret's name; undefined when nothing is there, or what is there can't be opened with the key. */
  read(id: string): Promise<ReadonlyMap<string, Entry> | undefined>;
  /** Takes the place of all of a sandbox's. On disk when it resolves. */
  write(id: string, entries: ReadonlyMap<string, Entry>): Promise<void>;
  remove(id: string): Promise<void>;
  /** Removes what was half written. Before anything else. */
  tidy(): Promise<void>;
  /** Removes those of sandboxes and snapshots that are no more. */
  sweep(lives: (id: string) => boolean): Promise<void>;
  /** A file beside them, for its owner only; what `make` gives is written when there is none yet. */
  keep(
    name: string,
    isGood: (text: string) => Promise<boolean>,
    make: () => Promise<string>,
  ): Promise<string>;
}

export function createVault(stateDir: string, onStep: OnStep): Vault {
  const dir = join(stateDir, "secrets");
  const keyFile = join(dir, "key");
  const fileOf = (id: string) => join(dir, `${id}.sealed`);
  let key: Promise<Buffer> | undefined;

  const makeDir = async () => {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await chmod(dir, 0o700);
  };

  const names = () =>
    readdir(dir).catch((error: unknown) => {
      if (isGone(error)) return [];
      throw error;
    });

  const readKey = async (): Promise<Buffer> => {
    const found = await readOrUndefined(keyFile);
    if (found?.length === KEY_BYTES) return found;
    const made = randomBytes(KEY_BYTES);
    await makeDir();
    await writeDurably(keyFile, made);
    onStep("secret.key-made");
    return made;
  };
  const theKey = async (): Promise<Buffer> => {
    key ??= readKey();
    key.catch(() => {
      key = undefined;
    });
    return await key;
  };

  return {
    async read(id) {
      const sealed = await readOrUndefined(fileOf(id));
      if (!sealed || sealed.length < NONCE_BYTES + TAG_BYTES) return undefined;
      const opener = createDecipheriv(cipher, await theKey(), sealed.subarray(0, NONCE_BYTES));
      // A file belongs to one sandbox: another's in its place is no file of it.
      opener.setAAD(Buffer.from(id));
      opener.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
      try {
        const body = sealed.subarray(NONCE_BYTES, sealed.length - TAG_BYTES);
        const text = Buffer.concat([opener.update(body), opener.final()]).toString("utf8");
        return new Map(Object.entries(Entries.parse(JSON.parse(text))));
      } catch {
        return undefined;
      }
    },
    async write(id, entries) {
      const nonce = randomBytes(NONCE_BYTES);
      const sealer = createCipheriv(cipher, await theKey(), nonce);
      sealer.setAAD(Buffer.from(id));
      const text = JSON.stringify(Object.fromEntries(entries));
      const body = Buffer.concat([sealer.update(text, "utf8"), sealer.final()]);
      await makeDir();
      await writeDurably(fileOf(id), Buffer.concat([nonce, body, sealer.getAuthTag()]));
      onStep("secret.sealed");
    },
    async remove(id) {
      await rm(fileOf(id), { force: true });
      onStep("secret.removed");
    },
    async tidy() {
      for (const name of await names()) if (name.endsWith(".new")) await rm(join(dir, name), { force: true });
    },
    async sweep(lives) {
      for (const name of await names()) {
        const id = /^([a-z0-9-]+)(?:\.[a-z]+)?\.sealed$/.exec(name)?.[1];
        if (id !== undefined && !lives(id)) await rm(join(dir, name), { force: true });
      }
    },
    async keep(name, isGood, make) {
      const path = join(dir, name);
      const found = (await readOrUndefined(path))?.toString("utf8");
      if (found !== undefined && (await isGood(found))) return found;
      const made = await make();
      await makeDir();
      await writeDurably(path, Buffer.from(made));
      return made;
    },
  };
}

async function readOrUndefined(path: string): Promise<Buffer | undefined> {
  return await readFile(path).catch((error: unknown) => {
    if (isGone(error)) return undefined;
    throw error;
  });
}

/** Readers see the old bytes or the new ones, also after a power cut. */
async function writeDurably(path: string, bytes: Buffer): Promise<void> {
  const temporary = `${path}.new`;
  try {
    await using file = await open(temporary, "w", 0o600);
    await file.chmod(0o600);
    await file.writeFile(bytes);
    await file.sync();
  } catch (error) {
    await rm(temporary, { force: true });
    throw noSpace(error);
  }
  await rename(temporary, path);
  await using dir = await open(join(path, ".."), "r");
  await dir.sync();
}
