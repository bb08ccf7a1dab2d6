import { z } from "zod";
import { CString, RuntimeChoice } from "./sandbox.ts";

/** An image reference as people write it; the runtime decides what it names. Never an option of a program that gets it. */
export const ImageReference = z
  .string()
  .min(1)
  .max(4096)
  .regex(
    /^[^\s\p{C}-][^\s\p{C}]*$/u,
    "an image is named like debian:12, without spaces and control characters",
  );

/** An image that a runtime has on this machine. */
export const ImageInfo = z
  .object({
    reference: z.string().meta({ description: "Name and tag, such as `debian:12`" }),
    id: z.string().meta({ description: "`sha256:…` of its configuration" }),
    runtime: z.string().meta({ description: "The runtime that has it" }),
    size: z
      .number()
      .int()
      .optional()
      .meta({ description: "Bytes on disk, layers shared with others included" }),
    created_at: z.string().optional().meta({ description: "RFC 3339" }),
  })
  .meta({ id: "Image" });
export type ImageInfo = z.infer<typeof ImageInfo>;

export const ImageFilter = RuntimeChoice.extend({
  prefix: CString.max(4096).optional().meta({ description: "Only images whose reference begins so" }),
});
export type ImageFilter = z.infer<typeof ImageFilter>;

export const PullImage = z
  .object({ reference: ImageReference, ...RuntimeChoice.shape })
  .meta({ id: "PullImage" });
export type PullImage = z.infer<typeof PullImage>;

const PathInContext = CString.min(1)
  .max(4096)
  .refine(
    (path) => !path.startsWith("/") && !path.split("/").includes(".."),
    "a path inside the context is needed",
  );

/** What a build is told; its context comes beside it, as an uncompressed tar. */
/** What the commands of a build reach: nothing, or what the runtime's builder gives them. */
export const BuildNetwork = z
  .enum(["none", "open"], { error: "the network of a build is none or open" })
  .meta({ id: "BuildNetwork", description: "Default: `none`" });
export type BuildNetwork = z.infer<typeof BuildNetwork>;

export const BuildImage = z
  .object({
    tag: ImageReference.meta({ description: "Name of the result, such as `my/tools:1`" }),
    dockerfile: PathInContext.optional().meta({
      description: "Path inside the context; default: `Dockerfile`, or `Containerfile` where there is none",
    }),
    build_args: z
      .record(z.string().regex(/^[A-Za-z_]\w{0,255}$/, "not the name of a build argument"), CString)
      .refine((args) => Object.keys(args).length <= 256, "at most 256 build arguments")
      .optional(),
    target: CString.min(1).max(256).optional().meta({ description: "Stage to stop at" }),
    no_cache: z.boolean().optional(),
    network: BuildNetwork.optional(),
    ...RuntimeChoice.shape,
  })
  .meta({ id: "BuildImage" });
export type BuildImage = z.infer<typeof BuildImage>;

/** How a pull or a build goes on. A line has no line end and no control characters beside tab. */
export const ImageProgress = z
  .union([
    z.object({ line: z.string() }),
    z.object({
      layer: z.string().meta({ description: "Short digest" }),
      status: z.string(),
      current: z.number().int().optional().meta({ description: "Bytes" }),
      total: z.number().int().optional(),
    }),
  ])
  .meta({ id: "ImageProgress" });
export type ImageProgress = z.infer<typeof ImageProgress>;

/** One server-sent event of a pull or a build, as JSON. The last of a success is the image. */
export type ImageEvent = ImageProgress | { image: ImageInfo };
