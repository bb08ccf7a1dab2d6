import { NotReached } from "../client/failures.ts";
import type { ServerApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";

type Call = (...args: unknown[]) => unknown;

/**
 * An API whose engine may just be closing: a call that it did not take, which is sure to have done nothing, is made once
 * more, to the API that `next` gives. A call whose connection broke half way is not: it may have been done. `isLeaving`:
 * the engine still answers, and says that it closes.
 */
export function askAgain(api: ServerApi, next: (isLeaving: boolean) => Promise<ServerApi>): ServerApi {
  let following: Promise<ServerApi> | undefined;

  const current = async () => (following ? await following : api);

  async function ask(call: (api: ServerApi) => unknown): Promise<unknown> {
    try {
      return await call(await current());
    } catch (error) {
      const isLeaving = error instanceof WarrenError && error.code === "shutting_down";
      if (!isLeaving && !(error instanceof NotReached)) throw error;
      // Several calls at one time ask for one engine.
      following ??= next(isLeaving);
      return await call(await following);
    }
  }

  /** The calls of one part. `once`: their bytes may come from where they can't be had twice. `streams` are read as they are. */
  function part<T extends object>(
    of: (api: ServerApi) => T,
    { once = [], streams = [] }: { once?: readonly (keyof T)[]; streams?: readonly (keyof T)[] } = {},
  ): T {
    const call = (at: ServerApi, name: string, args: unknown[]) =>
      (of(at) as Record<string, Call>)[name]?.(...args);
    const wrapped = Object.entries(of(api)).map(([name, own]) => {
      if (typeof own !== "function" || streams.includes(name as keyof T)) return [name, own];
      return once.includes(name as keyof T)
        ? [name, async (...args: unknown[]) => await call(await current(), name, args)]
        : [name, (...args: unknown[]) => ask((at) => call(at, name, args))];
    });
    return Object.fromEntries(wrapped);
  }

  return {
    ...part((at) => at, { streams: ["logs", "events"] }),
    files: part((at) => at.files, { once: ["write"], streams: ["watch"] }),
    images: part((at) => at.images, { once: ["build"] }),
    network: part((at) => at.network),
    ports: part((at) => at.ports),
    secrets: part((at) => at.secrets),
    credentials: part((at) => at.credentials),
    snapshots: part((at) => at.snapshots),
    volumes: part((at) => at.volumes),
  };
}
