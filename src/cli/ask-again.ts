import { NotReached } from "../client/failures.ts";
import type { ServerApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";

/**
 * An API whose engine may just be closing: a call that it did not take, which is sure to have done nothing, is made once
 * more, to the API that `next` gives. A call whose connection broke half way is not: it may have been done. `isLeaving`:
 * the engine still answers, and says that it closes.
 */
export function askAgain(api: ServerApi, next: (isLeaving: boolean) => Promise<ServerApi>): ServerApi {
  let following: Promise<ServerApi> | undefined;

  const current = async () => (following ? await following : api);

  async function ask<T>(call: (api: ServerApi) => Promise<T>): Promise<T> {
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

  return {
    ...api,
    health: () => ask((at) => at.health()),
    version: () => ask((at) => at.version()),
    create: (request, options) => ask((at) => at.create(request, options)),
    get: (id) => ask((at) => at.get(id)),
    list: (filter) => ask((at) => at.list(filter)),
    start: (id) => ask((at) => at.start(id)),
    stop: (id, options) => ask((at) => at.stop(id, options)),
    wait: (id, options) => ask((at) => at.wait(id, options)),
    pause: (id) => ask((at) => at.pause(id)),
    resume: (id) => ask((at) => at.resume(id)),
    update: (id, changes) => ask((at) => at.update(id, changes)),
    remove: (id) => ask((at) => at.remove(id)),
    extend: (id, timeoutS) => ask((at) => at.extend(id, timeoutS)),
    exec: (id, request, options) => ask((at) => at.exec(id, request, options)),
    execStream: (id, request, options) => ask((at) => at.execStream(id, request, options)),
    stats: (id) => ask((at) => at.stats(id)),
    systemStats: () => ask((at) => at.systemStats()),
    prune: (options) => ask((at) => at.prune(options)),
    images: {
      list: (filter) => ask((at) => at.images.list(filter)),
      get: (reference, options) => ask((at) => at.images.get(reference, options)),
      pull: (request, options) => ask((at) => at.images.pull(request, options)),
      // Its bytes may come from where they can't be had twice.
      build: async (request, context, options) =>
        await (await current()).images.build(request, context, options),
      remove: (reference, options) => ask((at) => at.images.remove(reference, options)),
    },
    preview: (id, port, request) => ask((at) => at.preview(id, port, request)),
    ports: {
      list: (id) => ask((at) => at.ports.list(id)),
      add: (id, port) => ask((at) => at.ports.add(id, port)),
      remove: (id, choice) => ask((at) => at.ports.remove(id, choice)),
    },
    volumes: {
      create: (request) => ask((at) => at.volumes.create(request)),
      get: (name, options) => ask((at) => at.volumes.get(name, options)),
      list: (filter) => ask((at) => at.volumes.list(filter)),
      remove: (name, options) => ask((at) => at.volumes.remove(name, options)),
      usage: (filter) => ask((at) => at.volumes.usage(filter)),
    },
    files: {
      ...api.files,
      // Its bytes may come from where they can't be had twice.
      write: async (id, path, body, options) => await (await current()).files.write(id, path, body, options),
      read: (id, path, options) => ask((at) => at.files.read(id, path, options)),
      remove: (id, path) => ask((at) => at.files.remove(id, path)),
      list: (id, path) => ask((at) => at.files.list(id, path)),
      stat: (id, path) => ask((at) => at.files.stat(id, path)),
      mkdir: (id, path) => ask((at) => at.files.mkdir(id, path)),
      rename: (id, from, to) => ask((at) => at.files.rename(id, from, to)),
      chmod: (id, path, mode) => ask((at) => at.files.chmod(id, path, mode)),
    },
  };
}
