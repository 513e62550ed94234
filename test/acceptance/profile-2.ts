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
