/** A defect put in on purpose: what the simulation must find. See `mutants` below. */
export interface Mutant {
  readonly name: string;
  readonly bucket?: { readonly overwrites?: boolean; readonly claimsCreated?: boolean };
  readonly sandbox?: {
    readonly keepsDiscarded?: boolean;
    readonly staleImages?: boolean;
    readonly skipsLastEntry?: boolean;
  };
  /** Puts the defect into the engine; the result takes it out again. */
  readonly patch?: () => () => void;
}

export const mutants: readonly Mutant[] = [];
