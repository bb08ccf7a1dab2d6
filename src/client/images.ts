import type { ImagesApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { ImageEvent, ImageInfo, ImageProgress } from "../contracts/images.ts";
import { type Http, type HttpCall, readEvents } from "./http.ts";

/** Images over HTTP. */
export function createImages(http: Http): ImagesApi {
  async function follow(
    path: string,
    call: HttpCall,
    onProgress: ((progress: ImageProgress) => void) | undefined,
  ): Promise<ImageInfo> {
    const response = await http.send("POST", path, call);
    for await (const event of readEvents<ImageEvent>(response.body)) {
      if ("image" in event) return event.image;
      onProgress?.(event);
    }
    throw new WarrenError("engine_unavailable", `${http.where} broke off before the image was there`);
  }

  return {
    list: (filter) => http.json<ImageInfo[]>("GET", "/images", { query: { ...filter } }),
    get: (reference, options) =>
      http.json<ImageInfo>("GET", "/images/inspect", { query: { ...options, reference } }),
    pull: (request, { onProgress, signal } = {}) =>
      follow("/images/pull", { json: request, signal }, onProgress),
    build: async ({ build_args: args = {}, ...request }, context, { onProgress, signal } = {}) => {
      const pairs = Object.entries(args).map(
        ([name, value]) => `build_arg=${encodeURIComponent(`${name}=${value}`)}`,
      );
      const path = `/images/build${pairs.length > 0 ? `?${pairs.join("&")}` : ""}`;
      return await follow(path, { query: request, body: context, signal }, onProgress);
    },
    remove: (reference, options) =>
      http.json<void>("DELETE", "/images", { query: { ...options, reference } }),
  };
}
