import { z } from "zod";
import { CString, RuntimeChoice } from "./sandbox.ts";

/** den's rule, one character more at least. */
export const VolumeName = z
  .string()
  .regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$/, "a volume's name is 1-64 of letters, digits, '_', '.' and '-'");

/** Storage that outlives sandboxes, and that several can have mounted. */
export const VolumeInfo = z
  .object({
    name: VolumeName,
    runtime: z.string().meta({ description: "The runtime that has it; sandboxes of others can't mount it" }),
    labels: z.record(z.string(), z.string()),
    created_at: z.string().optional().meta({ description: "RFC 3339" }),
    mountpoint: z.string().optional().meta({ description: "Where its files are on the runtime's machine" }),
  })
  .meta({ id: "Volume" });
export type VolumeInfo = z.infer<typeof VolumeInfo>;

export const VolumeUsage = z
  .object({ name: VolumeName, runtime: z.string(), size: z.number().int().meta({ description: "Bytes" }) })
  .meta({ id: "VolumeUsage" });
export type VolumeUsage = z.infer<typeof VolumeUsage>;

export const CreateVolume = z
  .object({
    name: VolumeName,
    labels: z
      .record(CString.min(1).max(256), CString.max(4096))
      .refine((labels) => Object.keys(labels).length <= 64, "at most 64 labels")
      .optional(),
    ...RuntimeChoice.shape,
  })
  .meta({ id: "CreateVolume" });
export type CreateVolume = z.infer<typeof CreateVolume>;

export const VolumeFilter = RuntimeChoice.extend({
  prefix: z
    .string()
    .regex(/^[a-zA-Z0-9_.-]{0,64}$/, "no volume's name begins so")
    .optional()
    .meta({ description: "Only volumes whose name begins so" }),
});
export type VolumeFilter = z.infer<typeof VolumeFilter>;
