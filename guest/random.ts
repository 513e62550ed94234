/** The run's random numbers: sfc32, seeded with the 16 bytes that the host gave. */
export interface RandomSource {
  /** In [0, 1), with 53 bits. */
  next(): number;
  bytes(count: number): Uint8Array;
}

export function randomSource(seed: Uint8Array): RandomSource {
  const word = (index: number): number => {
    let value = 0;
    for (let i = 0; i < 4; i++) value = (value << 8) | (seed[index * 4 + i] ?? 0);
    return value;
  };
  let a = word(0);
  let b = word(1);
  let c = word(2);
  let counter = word(3);
  const draw = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    c |= 0;
    return sum >>> 0;
  };
  // The first numbers still show the seed.
  for (let i = 0; i < 12; i++) draw();
  return {
    next: () => ((draw() >>> 5) * 67108864 + (draw() >>> 6)) / 9007199254740992,
    bytes: (count) => {
      const bytes = new Uint8Array(count);
      for (let i = 0; i < count; i++) bytes[i] = draw() & 0xff;
      return bytes;
    },
  };
}
