import { z } from "zod";
import { CString } from "./sandbox.ts";

/** An image reference as people write it; the runtime decides what it names. */
export const ImageReference = CString.min(1).max(4096);

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

export const PullImage = z
  .object({ reference: ImageReference, runtime: z.string().max(32).optional() })
  .meta({ id: "PullImage" });
export type PullImage = z.infer<typeof PullImage>;

/** What a build is told; its context comes beside it, as an uncompressed tar. */
export const BuildImage = z
  .object({
    tag: ImageReference.meta({ description: "Name of the result, such as `my/tools:1`" }),
    dockerfile: CString.min(1).max(4096).optional().meta({
      description: "Path inside the context; default: `Dockerfile`, or `Containerfile` where there is none",
    }),
    build_args: z.record(z.string().regex(/^[A-Za-z_]\w*$/), CString).optional(),
    target: CString.min(1).max(256).optional().meta({ description: "Stage to stop at" }),
    no_cache: z.boolean().optional(),
    runtime: z.string().max(32).optional(),
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
