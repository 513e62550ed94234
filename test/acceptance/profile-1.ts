/** Profiles in their first form; actors-more.test.ts upgrades from one to the other. */
import { actor, remind, signal, workflow } from "sporeflow/guest";

class Profile {
  name: string;
  constructor(name = "nobody") {
    this.name = name;
  }
  rename(name: string): void {
    this.name = name;
  }
  renameEverySecond(name: string): void {
    remind("rename", { every: "1 second" }, this.rename, name);
  }
  async wait(): Promise<string> {
    await signal("done");
    return this.name;
  }
  old(): string {
    return `v1 ${this.name}`;
  }
  title(): string {
    return `v1 ${this.name}`;
  }
}
export const Profiles = actor("Profile", Profile, { readonly: ["title"] });

/** Begun with this component, it asks when the other one is there. */
export const interview = workflow("interview", async (key: string) => {
  await signal("go");
  return Profiles.get(key).title();
});

export const Contracts = actor(
  "Contract",
  class {
    terms = "first terms";
    read(): string {
      return this.terms;
    }
  },
);
