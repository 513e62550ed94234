/** Profiles in their second form; actors-more.test.ts upgrades from one to the other. */
import { actor } from "sporeflow/guest";

class Profile {
  first: string;
  last: string;
  constructor(name = "no body") {
    const { first, last } = Profile.upgrade({ name });
    this.first = first;
    this.last = last;
  }
  static upgrade({ name }: { name: string }): { first: string; last: string } {
    const [first = "", last] = name.split(" ");
    if (last === undefined) throw new RangeError(`${name} has one name only`);
    return { first, last };
  }
  rename(name: string): void {
    Object.assign(this, Profile.upgrade({ name }));
  }
  marry(last: string): string {
    this.last = last;
    return this.title();
  }
  title(): string {
    return `v2 ${this.last}, ${this.first}`;
  }
  initials(): string {
    return `${this.first[0]}${this.last[0]}`;
  }
}
export const Profiles = actor("Profile", Profile, { readonly: ["title", "initials"] });

/** Moves only where somebody says so. */
export const Contracts = actor(
  "Contract",
  class {
    terms = "second terms";
    static upgrade(): { terms: string } {
      return { terms: "second terms" };
    }
    read(): string {
      return this.terms;
    }
  },
  { upgrades: "by-request" },
);
