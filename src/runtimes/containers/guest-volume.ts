import { createHash } from "node:crypto";
import { z } from "zod";
import type { Logger } from "../../lib/log.ts";
import { createSingleFlight } from "../../lib/single-flight.ts";
import { endOfTar } from "../../lib/tar-entries.ts";
import { tarFile, tarHeader } from "../../lib/tar-file.ts";
import { GUEST_DIR } from "../common/guest-program.ts";
import { readAnswer } from "./answers.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "./api-client.ts";
import { removeContainer } from "./containers.ts";

const VolumeList = z.object({ Volumes: z.array(z.object({ Name: z.string() })).nullish() });

/** Beside the guest: where it makes its socket. A mount that is read-only can get no mount point. */
const SOCKET_DIR_NAME = "run";

/** The guest program in a volume of the engine's, for engines that can't see our files. */
export interface GuestVolume {
  /**
   * Name of a volume that holds the guest. It is made and filled when it isn't there; `image` is any that the engine has.
   * @throws WarrenError `runtime_failed` when the engine takes none
   */
  ensure(image: string): Promise<string>;
  /** Removes the volumes of ours, of this version of the guest too, that no container uses. */
  prune(): Promise<void>;
}

/** A volume can't be written to without a container: one that is never started fills it, which a read-only root allows too. */
export function createGuestVolume(options: {
  client: ApiClient;
  ownerId: string;
  log: Logger;
  guest: Buffer;
}): GuestVolume {
  const { client, ownerId, log, guest } = options;
  const version = createHash("sha256").update(guest).digest("hex").slice(0, 24);
  const name = `warren-guest-${ownerId}-${version}`;
  const label = `warren.guest-of=${ownerId}`;
  const labels = { "warren.guest-of": ownerId };
  const archive = guestArchive(guest);
  const filling = createSingleFlight<void>();
  let isFilled = false;

  const exists = async (): Promise<boolean> => {
    try {
      await client.json({ path: `/volumes/${name}` });
      return true;
    } catch (error) {
      if (error instanceof EngineRefusal && error.status === 404) return false;
      throw error;
    }
  };
  const removeHelper = () => removeContainer(client, name, "what fills a volume can't be removed");

  const fill = async (image: string): Promise<void> => {
    await client.json({
      method: "POST",
      path: "/volumes/create",
      body: { Name: name, Driver: "local", Labels: labels },
    });
    // What a killed engine left of it.
    await removeHelper();
    await client.json({
      method: "POST",
      path: "/containers/create",
      query: { name },
      body: {
        Image: image,
        Entrypoint: [`${GUEST_DIR}/guest`],
        // Such as have no sandbox's id are removed when an engine starts.
        Labels: { "warren.owner": ownerId },
        HostConfig: {
          NetworkMode: "none",
          // Nothing of the image's gets in.
          Mounts: [{ Type: "volume", Source: name, Target: GUEST_DIR, VolumeOptions: { NoCopy: true } }],
        },
      },
    });
    try {
      await client.json({
        method: "PUT",
        path: `/containers/${name}/archive`,
        query: { path: GUEST_DIR },
        body: chunksOf(archive),
      });
    } finally {
      await removeHelper();
    }
  };

  return {
    async ensure(image) {
      try {
        if (isFilled && (await exists())) return name;
        await filling.run(name, () => fill(image));
        isFilled = true;
        return name;
      } catch (error) {
        throw engineFailure(
          error,
          "the guest can't be brought into a sandbox: the container engine does not take a volume for it",
          { 404: "image_not_found" },
        );
      }
    },
    async prune() {
      try {
        const filters = { label: [label] };
        const volumes = await client.json({ path: "/volumes", query: { filters } });
        for (const { Name } of readAnswer(VolumeList, volumes).Volumes ?? []) {
          await client
            .json({ method: "DELETE", path: `/volumes/${encodeURIComponent(Name)}` })
            .catch((error: unknown) => {
              // In use, or gone.
              if (!(error instanceof EngineRefusal && [404, 409].includes(error.status))) throw error;
            });
        }
        isFilled = false;
      } catch (error) {
        log.warn({ err: error }, "volumes with guest programs may be left");
      }
    },
  };
}

async function* chunksOf(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}

/** An uncompressed tar. */
function guestArchive(guest: Buffer): Buffer {
  return Buffer.concat([
    tarHeader({ name: `${SOCKET_DIR_NAME}/`, type: "5", mode: 0o755, size: 0 }),
    tarFile("guest", 0o555, guest),
    endOfTar,
  ]);
}
