/**
 * Counters and histograms in Prometheus text. Label sets are few by design (routes, not
 * ids); a bound stops a mistake from eating the memory.
 */

export interface Metrics {
  count(name: string, value: number, labels?: Labels): void;
  observe(name: string, value: number, labels?: Labels): void;
  gauge(name: string, read: () => number, labels?: Labels): void;
  text(): string;
}

type Labels = Readonly<Record<string, string>>;

const seriesMax = 5_000;
/** Upper bounds of the histograms' buckets, by the unit that a name ends in. */
const bytesBuckets = [256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216];
const msBuckets = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000];

interface Histogram {
  readonly buckets: readonly number[];
  readonly counts: number[];
  sum: number;
  count: number;
}

export function createMetrics(prefix = "spore_"): Metrics {
  const counters = new Map<string, Map<string, number>>();
  const histograms = new Map<string, Map<string, Histogram>>();
  const gauges = new Map<string, Map<string, () => number>>();
  let series = 0;

  function seriesOf<T>(
    families: Map<string, Map<string, T>>,
    name: string,
    labels: Labels | undefined,
    make: () => T,
  ): { family: Map<string, T>; key: string; value: T } | undefined {
    let family = families.get(name);
    if (family === undefined) {
      family = new Map();
      families.set(name, family);
    }
    const key = labelText(labels);
    let value = family.get(key);
    if (value === undefined) {
      if (series >= seriesMax) return undefined;
      series++;
      value = make();
      family.set(key, value);
    }
    return { family, key, value };
  }

  /** The engine's names may have the prefix, and a counter's `_total`, already. */
  const fullName = (name: string): string =>
    metricName(prefix + (name.startsWith(prefix) ? name.slice(prefix.length) : name));

  return {
    count(name, value, labels) {
      const found = seriesOf(counters, name, labels, () => 0);
      found?.family.set(found.key, found.value + value);
    },
    observe(name, value, labels) {
      const histogram = seriesOf(histograms, name, labels, () => {
        const buckets = name.endsWith("_bytes") ? bytesBuckets : msBuckets;
        return { buckets, counts: buckets.map(() => 0), sum: 0, count: 0 };
      })?.value;
      if (histogram === undefined) return;
      const index = histogram.buckets.findIndex((bound) => value <= bound);
      if (index >= 0) histogram.counts[index] = (histogram.counts[index] ?? 0) + 1;
      histogram.sum += value;
      histogram.count++;
    },
    gauge(name, read, labels) {
      seriesOf(gauges, name, labels, () => read);
    },
    text() {
      const lines: string[] = [];
      for (const [name, family] of counters) {
        const full = `${fullName(name).replace(/_total$/, "")}_total`;
        lines.push(`# TYPE ${full} counter`);
        for (const [labels, value] of family) lines.push(`${full}${braced(labels)} ${value}`);
      }
      for (const [name, family] of gauges) {
        const full = fullName(name);
        lines.push(`# TYPE ${full} gauge`);
        for (const [labels, read] of family) lines.push(`${full}${braced(labels)} ${read()}`);
      }
      for (const [name, family] of histograms) {
        const full = fullName(name);
        lines.push(`# TYPE ${full} histogram`);
        for (const [labels, histogram] of family) {
          lines.push(...histogramLines(full, labels, histogram));
        }
      }
      return `${lines.join("\n")}\n`;
    },
  };
}

function histogramLines(name: string, labels: string, histogram: Histogram): string[] {
  const comma = labels === "" ? "" : ",";
  const lines: string[] = [];
  let below = 0;
  for (const [index, bound] of histogram.buckets.entries()) {
    below += histogram.counts[index] ?? 0;
    lines.push(`${name}_bucket{${labels}${comma}le="${bound}"} ${below}`);
  }
  lines.push(
    `${name}_bucket{${labels}${comma}le="+Inf"} ${histogram.count}`,
    `${name}_sum${braced(labels)} ${histogram.sum}`,
    `${name}_count${braced(labels)} ${histogram.count}`,
  );
  return lines;
}

function metricName(name: string): string {
  return name.replaceAll(/[^a-zA-Z0-9_:]/g, "_");
}

function labelText(labels: Labels | undefined): string {
  if (labels === undefined) return "";
  return Object.entries(labels)
    .map(([name, value]) => `${metricName(name)}="${escaped(value)}"`)
    .join(",");
}

function escaped(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function braced(labels: string): string {
  return labels === "" ? "" : `{${labels}}`;
}
