import { CreateVolume } from "../../contracts/volumes.ts";
import { RemoveVolumeQuery, VolumeQuery, VolumesQuery } from "../query.ts";
import { type Handler, present } from "./handler.ts";

export const volumeHandlers = {
  listVolumes: async ({ api, query }) => api.volumes.list(present(query(VolumesQuery))),
  createVolume: async ({ api, json }) => api.volumes.create(await json(CreateVolume)),
  async getVolume({ api, query }) {
    const { name, ...options } = query(VolumeQuery);
    return await api.volumes.get(name, present(options));
  },
  async removeVolume({ api, query }) {
    const { name, ...options } = query(RemoveVolumeQuery);
    await api.volumes.remove(name, present(options));
  },
  volumeUsage: async ({ api, query }) => api.volumes.usage(present(query(VolumesQuery))),
} satisfies Record<string, Handler>;
