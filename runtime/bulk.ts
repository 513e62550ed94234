/** One page of runs that match, each acted upon by itself, wherever it is. */
import { SporeError } from "./errors.ts";
import type { BulkAction, BulkRequest, BulkResult, Status, TenantHost } from "./index.ts";

/** Runs that one bulk request acts upon, and how many of them at a time. */
const bulkMax = 1000;
const bulkAtOnce = 100;
/** Which runs an action is for, if the filter doesn't say. */
const bulkStatuses: Readonly<Record<BulkAction, readonly Status[]>> = {
  cancel: ["PENDING", "RUNNING", "PAUSED", "RESUMABLE"],
  terminate: ["PENDING", "RUNNING", "PAUSED", "RESUMABLE"],
  pause: ["PENDING", "RUNNING"],
  resume: ["PAUSED", "RESUMABLE", "FAILED"],
  delete: ["SUCCESSFUL", "FAILED", "CANCELED"],
};

export async function bulk(tenant: TenantHost, request: BulkRequest): Promise<BulkResult> {
  const { action, filter, cursor, limit = bulkMax } = request;
  const statuses = filter.statuses ?? bulkStatuses[action];
  const page = await tenant.listRuns({ ...filter, statuses, limit, cursor });
  const runs: BulkResult["runs"][number][] = [];
  for (let first = 0; first < page.runs.length; first += bulkAtOnce) {
    const part = page.runs.slice(first, first + bulkAtOnce);
    runs.push(...(await Promise.all(part.map((run) => actOn(tenant, run, request)))));
  }
  return page.cursor === undefined ? { runs } : { runs, cursor: page.cursor };
}

async function actOn(
  tenant: TenantHost,
  { id, status }: { readonly id: string; readonly status: Status },
  { action, reason, isDryRun }: BulkRequest,
): Promise<BulkResult["runs"][number]> {
  if (isDryRun === true) return { id, status };
  try {
    switch (action) {
      case "cancel":
        return { id, status: (await tenant.cancelRun(id, reason ?? "")).status };
      case "terminate":
        return {
          id,
          status: (await tenant.terminateRun(id, reason ?? "the run was terminated")).status,
        };
      case "pause":
        return { id, status: (await tenant.pauseRun(id)).status };
      case "resume":
        return { id, status: (await tenant.resumeRun(id)).status };
      case "delete":
        await tenant.deleteRun(id);
        return { id, status };
    }
  } catch (error) {
    // What one run refuses is no reason to stop; a host in trouble is.
    const isRefusal =
      error instanceof SporeError && (error.kind === "missing" || error.kind === "conflict");
    if (!isRefusal) throw error;
    return { id, status, error };
  }
}
