/** The engine's Calendar: cron expressions with time zones, by croner. */
import { Cron } from "croner";
import { SporeError } from "../runtime/errors.ts";
import type { Calendar } from "../runtime/ports.ts";

export const calendar: Calendar = {
  next(cron, zone, afterMs) {
    try {
      const timezone = zone ?? "UTC";
      return new Cron(cron, { timezone, paused: true }).nextRun(new Date(afterMs))?.getTime();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new SporeError("invalid-request", `cron ${JSON.stringify(cron)}: ${message}`, {
        hint: "Five or six fields: [second] minute hour day month weekday; zone is an IANA name.",
      });
    }
  },
};
