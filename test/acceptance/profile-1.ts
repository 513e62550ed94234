/** Profiles in their first form; actors-more.test.ts upgrades from one to the other. */
import { actor, signal } from "sporeflow/guest";

class Profile {
  name: string;
  constructor(name = "nobody") {
    this.name = name;
  }
  rename(name: string): void {
    this.name = name;
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
