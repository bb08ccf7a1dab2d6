import type { ImageInfo } from "../../../contracts/images.ts";
import { ImageInspection, readAnswer } from "../answers.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "../api-client.ts";

/** On every image that we make. Not that of containers, which inherit their image's labels. */
export const OWNER_LABEL = "warren.image.owner";

/** Undefined when there is none of this name. */
export async function lookup(client: ApiClient, name: string): Promise<ImageInspection | undefined> {
  try {
    return readAnswer(ImageInspection, await client.json({ path: imagePath(name, "/json") }));
  } catch (error) {
    if (error instanceof EngineRefusal && error.status === 404) return undefined;
    throw engineFailure(error, `the image ${name} can't be looked at`);
  }
}

export function imagePath(name: string, action = ""): string {
  return `/images/${encodeURIComponent(name)}${action}`;
}

/** `sha256:…`: Podman leaves that out in places. */
export function imageId(id: string): string {
  return id.startsWith("sha256:") ? id : `sha256:${id}`;
}

/** Those that the image has; engines write `<none>` for none. */
export function namesOf({
  RepoTags,
  RepoDigests,
}: Pick<ImageInspection, "RepoTags" | "RepoDigests">): string[] {
  const real = (names: readonly string[] | null | undefined) =>
    (names ?? []).filter((name) => !name.includes("<none>"));
  const tags = real(RepoTags);
  return tags.length > 0 ? tags : real(RepoDigests);
}

export function describeImage(reference: string, runtime: string, image: ImageInspection): ImageInfo {
  const { Id, Size, Created } = image;
  const created = new Date(typeof Created === "number" ? Created * 1000 : (Created ?? Number.NaN));
  // Lists have no more.
  created.setMilliseconds(0);
  return {
    reference,
    id: imageId(Id),
    runtime,
    ...(Size === undefined ? {} : { size: Size }),
    ...(Number.isNaN(created.getTime()) ? {} : { created_at: created.toISOString() }),
  };
}
