import { ContainerList, type ContainerState, readAnswer, ContainerState as State } from "./answers.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "./api-client.ts";

/** The containers of one engine of ours, by the sandbox that each is. */
export interface Containers {
  nameOf(id: string): string;
  /** Of a container, below the API's version. */
  pathOf(id: string, action?: string): string;
  /** Undefined when there is none. */
  look(id: string): Promise<ContainerState | undefined>;
  /** An order without an answer. "It is so already" is success. Throws as the client does. */
  act(id: string, action: string, query?: Record<string, string>): Promise<void>;
  /** Ends and deletes it. Gone already is success. */
  remove(id: string): Promise<void>;
  /** Sandbox ids. */
  list(): Promise<string[]>;
  /** Removes what an engine that was killed made to look into images and to fill volumes. */
  sweep(): Promise<void>;
}

/** `onLook` is told of each container that was looked at. */
export function createContainers(
  client: ApiClient,
  ownerId: string,
  onLook: (id: string, container: ContainerState | undefined) => void,
): Containers {
  const nameOf = (id: string) => `warren-${ownerId}-${id}`;
  const pathOf = (id: string, action = "") => `/containers/${encodeURIComponent(nameOf(id))}${action}`;
  const all = async () => {
    const filters = { label: [`warren.owner=${ownerId}`] };
    const answer = await client
      .json({ path: "/containers/json", query: { all: true, filters } })
      .catch((error: unknown) => {
        throw engineFailure(error, "the containers can't be listed");
      });
    return readAnswer(ContainerList, answer);
  };
  return {
    nameOf,
    pathOf,
    async look(id) {
      const found = await inspectContainer(client, pathOf(id, "/json"), `sandbox ${id} can't be looked at`);
      onLook(id, found);
      return found;
    },
    async act(id, action, query = {}) {
      try {
        await client.json({ method: "POST", path: pathOf(id, action), query });
      } catch (error) {
        if (error instanceof EngineRefusal && (error.status === 304 || error.status === 409)) return;
        throw error;
      }
    },
    async remove(id) {
      await removeContainer(client, nameOf(id), `sandbox ${id} can't be removed`);
      onLook(id, undefined);
    },
    async list() {
      return (await all()).flatMap(({ Labels }) => Labels?.["warren.id"] ?? []);
    },
    async sweep() {
      // Anybody's container has the labels of its image, but not our names.
      const helpers = [`warren-${ownerId}-look-`, `warren-guest-${ownerId}-`];
      for (const { Id, Names } of await all()) {
        const names = (Names ?? []).map((name) => name.replace(/^\//, ""));
        if (names.some((name) => helpers.some((prefix) => name.startsWith(prefix)))) {
          await removeContainer(client, Id, "what an engine left can't be removed");
        }
      }
    },
  };
}

async function inspectContainer(
  client: ApiClient,
  path: string,
  what: string,
): Promise<ContainerState | undefined> {
  try {
    return readAnswer(State, await client.json({ path }));
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw engineFailure(error, what);
  }
}

/** With the volumes that its image declares, which have no name. */
export async function removeContainer(client: ApiClient, name: string, what: string): Promise<void> {
  try {
    const query = { force: true, v: true };
    await client.json({ method: "DELETE", path: `/containers/${encodeURIComponent(name)}`, query });
  } catch (error) {
    if (!isMissing(error)) throw engineFailure(error, what);
  }
}

function isMissing(error: unknown): boolean {
  if (!(error instanceof EngineRefusal)) return false;
  // Podman has both for one that goes away while it is looked at.
  return error.status === 404 || (error.status === 500 && /no such container/i.test(error.message));
}

export function isPaused({ State: { Paused, Status } }: ContainerState): boolean {
  return Paused === true || Status === "paused";
}

export function lives(container: ContainerState): boolean {
  const { Status, Running } = container.State;
  return Running === true || Status === "running" || Status === "stopping" || isPaused(container);
}
