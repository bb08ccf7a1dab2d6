import { PullImage } from "../../contracts/images.ts";
import { bodyBytes } from "../body.ts";
import { http2Stream } from "../outgoing.ts";
import { progressEvents } from "../progress-events.ts";
import { BuildQuery, ImageQuery, ImagesQuery, pairsOf } from "../query.ts";
import { discardBody } from "../send-error.ts";
import { sendEvents } from "../send-events.ts";
import { type Handler, present, sent } from "./handler.ts";

/** How long a failure may take to be told by the status; after that the events have begun. */
const FIRST_EVENT_MS = 10_000;

export const imageHandlers = {
  listImages: async ({ api, query }) => api.images.list(present(query(ImagesQuery))),
  async getImage({ api, query }) {
    const { reference, ...options } = query(ImageQuery);
    return await api.images.get(reference, present(options));
  },
  async removeImage({ api, query }) {
    const { reference, ...options } = query(ImageQuery);
    await api.images.remove(reference, present(options));
  },
  async pullImage({ api, json, signal, outgoing, log }) {
    const request = await json(PullImage);
    const events = progressEvents((onProgress) => api.images.pull(request, { onProgress, signal }));
    await sendEvents(outgoing, events, log, { firstMs: FIRST_EVENT_MS });
    return sent;
  },
  async buildImage({ api, query, signal, incoming, outgoing, log }) {
    const { build_arg: _, ...asked } = query(BuildQuery);
    const request = { ...asked, build_args: pairsOf(incoming.url ?? "", "build_arg") };
    // What the engine takes of it is the engine's to say.
    const context = bodyBytes(incoming, Number.POSITIVE_INFINITY);
    const events = progressEvents((onProgress) =>
      api.images.build(present(request), context, { onProgress, signal }),
    );
    // A build that fails may leave half of its context unread: nothing else can come on this connection.
    if (!http2Stream(outgoing)) outgoing.setHeader("connection", "close");
    await sendEvents(outgoing, events, log, {
      firstMs: FIRST_EVENT_MS,
      beforeEnd: () => discardBody(incoming, outgoing),
    });
    return sent;
  },
} satisfies Record<string, Handler>;
