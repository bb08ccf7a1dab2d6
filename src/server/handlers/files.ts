import type { ReadFileOptions, WriteFileOptions } from "../../contracts/files.ts";
import { guarded } from "../../lib/guarded.ts";
import { bodyBytes } from "../body.ts";
import { ChmodRequest, RenameRequest } from "../file-bodies.ts";
import { checkPath, PathQuery, ReadQuery, WatchQuery, WriteQuery } from "../query.ts";
import { sendEvents } from "../send-events.ts";
import { sendFile } from "../send-file.ts";
import { receiveUpload } from "../upload.ts";
import { type Call, type Handler, present, sent } from "./handler.ts";

const success = { success: true } as const;

export const fileHandlers = {
  readFile: (call) => download(call, false),
  downloadFile: (call) => download(call, true),
  async writeFile({ api, id, incoming, limits, query, signal }) {
    const { path, ...options } = query(WriteQuery);
    const body = guarded(bodyBytes(incoming, limits.maxUploadBytes));
    const { bytes } = await body.during(
      api.files.write(id, checkPath(path), body.bytes, present<WriteFileOptions>({ ...options, signal })),
    );
    return { ...success, bytes };
  },
  async uploadFile({ api, id, incoming, limits, query, signal }) {
    const { path, ...options } = query(WriteQuery);
    const upload = await receiveUpload(incoming, path, limits.maxUploadBytes);
    const body = guarded(upload.bytes);
    const { bytes } = await body.during(
      api.files.write(id, upload.path, body.bytes, present<WriteFileOptions>({ ...options, signal })),
    );
    return { ...success, bytes };
  },
  async removeFile({ api, id, query }) {
    await api.files.remove(id, checkPath(query(PathQuery).path));
    return success;
  },
  listFiles: async ({ api, id, query }) => api.files.list(id, checkPath(query(PathQuery).path ?? "/")),
  statFile: async ({ api, id, query }) => api.files.stat(id, checkPath(query(PathQuery).path)),
  async makeDirectory({ api, id, query }) {
    await api.files.mkdir(id, checkPath(query(PathQuery).path));
    return success;
  },
  async renameFile({ api, id, json }) {
    const { from, to } = await json(RenameRequest);
    await api.files.rename(id, checkPath(from, "from is required"), checkPath(to, "to is required"));
    return success;
  },
  async changeMode({ api, id, json }) {
    const { path, mode } = await json(ChmodRequest);
    await api.files.chmod(id, checkPath(path, "path is required"), mode);
    return success;
  },
  async watchFiles({ api, id, outgoing, query, signal, log }) {
    const { path: asked, recursive = false } = query(WatchQuery);
    const path = checkPath(asked);
    // A watch fails only once it is read, when the status has been sent: what can be told before is told by this.
    await api.files.stat(id, path);
    await sendEvents(outgoing, api.files.watch(id, path, { recursive, signal }), log);
    return sent;
  },
} satisfies Record<string, Handler>;

async function download(call: Call, attachment: boolean): Promise<typeof sent> {
  const { api, id, incoming, outgoing, query, signal } = call;
  const { path: asked, ...range } = query(ReadQuery);
  const path = checkPath(asked);
  const file = await api.files.read(id, path, present<ReadFileOptions>({ ...range, signal }));
  await sendFile(outgoing, file, {
    range,
    headOnly: incoming.method === "HEAD",
    ...(attachment ? { attachmentPath: path } : {}),
  });
  return sent;
}
