import { randomBytes } from "node:crypto";
import { WarrenError } from "../../contracts/errors.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "../containers/api-client.ts";
import { removeContainer } from "../containers/containers.ts";

/** Of an image's /etc/passwd and /etc/group. */
const MAX_FILE_BYTES = 1024 * 1024;
const MAX_KEPT_IMAGES = 64;
const TAR_BLOCK = 512;

export interface Account {
  uid: number;
  gid: number;
}

/** The users of images. */
export interface Accounts {
  /** Of `1000`, `1000:100`, `name` or `name:group`. Throws `invalid_request` for one that the image does not have. */
  find(image: string, user: string): Promise<Account>;
}

interface Files {
  passwd: string;
  group: string;
}

export function createAccounts(client: ApiClient, ownerId: string): Accounts {
  // An image's id is that of its content.
  const known = new Map<string, Promise<Files>>();

  const filesOf = (image: string): Promise<Files> => {
    const reading =
      known.get(image) ??
      readFiles(client, ownerId, image).catch((error: unknown) => {
        known.delete(image);
        throw error;
      });
    known.set(image, reading);
    for (const oldest of known.keys()) {
      if (known.size <= MAX_KEPT_IMAGES) break;
      known.delete(oldest);
    }
    return reading;
  };

  return {
    async find(image, user) {
      const [name = "", group] = user.split(/:(.*)/s);
      if (isNumber(name) && group !== undefined && isNumber(group)) {
        return { uid: Number(name), gid: Number(group) };
      }
      return findAccount(await filesOf(image), name, group, user);
    },
  };
}

export function findAccount(
  { passwd, group }: Files,
  name: string,
  groupName: string | undefined,
  user: string,
): Account {
  const entry = fieldsOf(passwd).find((fields) => (isNumber(name) ? fields[2] === name : fields[0] === name));
  const uid = isNumber(name) ? Number(name) : Number(entry?.[2] ?? Number.NaN);
  const ownGid = Number(entry?.[3] ?? (isNumber(name) ? 0 : Number.NaN));
  const gid =
    groupName === undefined
      ? ownGid
      : isNumber(groupName)
        ? Number(groupName)
        : Number(fieldsOf(group).find((fields) => fields[0] === groupName)?.[2] ?? Number.NaN);
  if ([uid, gid].every((id) => Number.isInteger(id) && id >= 0 && id < 2 ** 32 - 1)) return { uid, gid };
  throw new WarrenError("invalid_request", `the image has no user ${JSON.stringify(user)}`, {
    hint: "a number works with every image",
  });
}

const fieldsOf = (text: string): string[][] => text.split("\n").map((line) => line.split(":"));
const isNumber = (text: string): boolean => /^\d{1,10}$/.test(text);

/** Of a container that is made for this, never started, and removed. */
async function readFiles(client: ApiClient, ownerId: string, image: string): Promise<Files> {
  const name = `warren-${ownerId}-look-${randomBytes(6).toString("hex")}`;
  const what = `the users of the image ${image} can't be looked up`;
  try {
    await client.json({
      method: "POST",
      path: "/libpod/containers/create",
      // Without the label of a sandbox: what an engine that was killed left of these is swept at the next opening.
      body: {
        name,
        image,
        labels: { "warren.owner": ownerId },
        entrypoint: ["/"],
        netns: { nsmode: "none" },
      },
    });
    const [passwd, group] = await Promise.all(
      ["/etc/passwd", "/etc/group"].map((path) => readFile(client, name, path)),
    );
    return { passwd: passwd ?? "", group: group ?? "" };
  } catch (error) {
    throw engineFailure(error, what, { 404: "image_not_found" });
  } finally {
    await removeContainer(client, name, what);
  }
}

/** Undefined for what is no plain file: a link's target isn't followed, whoever made it. */
async function readFile(client: ApiClient, container: string, path: string): Promise<string | undefined> {
  let tar: AsyncIterable<Buffer>;
  try {
    tar = await client.stream({
      path: `/containers/${encodeURIComponent(container)}/archive`,
      query: { path },
    });
  } catch (error) {
    if (error instanceof EngineRefusal && error.status === 404) return undefined;
    throw error;
  }
  let bytes = Buffer.alloc(0);
  for await (const chunk of tar) {
    bytes = Buffer.concat([bytes, chunk]);
    if (bytes.length > MAX_FILE_BYTES + TAR_BLOCK) break; // and the connection with it
  }
  return firstFile(bytes);
}

/** The content of a tar's first entry, if that is a plain file whose content is there. */
export function firstFile(tar: Buffer): string | undefined {
  if (tar.length < TAR_BLOCK) return undefined;
  const type = String.fromCharCode(tar[156] ?? 0);
  const size = Number.parseInt(tar.subarray(124, 136).toString("latin1").replace(/\0.*$/s, "").trim(), 8);
  if ((type !== "0" && type !== "\0") || !Number.isSafeInteger(size) || size > MAX_FILE_BYTES)
    return undefined;
  const content = tar.subarray(TAR_BLOCK, TAR_BLOCK + size);
  return content.length === size ? content.toString("utf8") : undefined;
}
