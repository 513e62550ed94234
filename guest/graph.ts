/** Graphs that come from outside (GraphValue), as nodes of this component's steps. */
import { findStep, GraphNode, isPlain } from "./define.ts";
import { normaliseOptions, type StepOptions } from "./options.ts";

/** A graph that came from outside, as nodes. Throws a TypeError that says what is wrong. */
export function graphFromValue(value: unknown): GraphNode {
  const nodes = new Map<number, GraphNode>();
  const root = nodeFrom(value, nodes);
  if (root instanceof GraphNode) return root;
  throw new TypeError("the root of a graph must be a node: { $step, args }");
}

function nodeFrom(value: unknown, nodes: Map<number, GraphNode>): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((each) => nodeFrom(each, nodes));
  if (value instanceof Map || value instanceof Set) return withoutNodes(value);
  if (!isPlain(value)) return value;
  if (Object.hasOwn(value, "$ref")) {
    const node = nodes.get(value["$ref"] as number);
    if (node === undefined)
      throw new TypeError(`there is no node ${String(value["$ref"])} before its $ref`);
    return node;
  }
  if (Object.hasOwn(value, "$step")) return stepFrom(value, nodes);
  const record: Record<string, unknown> = {};
  for (const key of Object.keys(value)) {
    const inner = nodeFrom(value[key], nodes);
    Object.defineProperty(record, key, {
      value: inner,
      writable: true,
      enumerable: true,
      configurable: true,
    });
  }
  return record;
}

/** Nodes stand in arrays and plain objects only; elsewhere a step would be given them as they are. */
function withoutNodes<Value extends Map<unknown, unknown> | Set<unknown>>(value: Value): Value {
  for (const each of value.values()) {
    if (isPlain(each) && Object.hasOwn(each, "$step")) {
      const what = value instanceof Map ? "a Map" : "a Set";
      throw new TypeError(
        `the node of step "${String(each["$step"])}" can't be in ${what}: arrays and plain objects may hold nodes`,
      );
    }
  }
  return value;
}

function stepFrom(value: Record<string, unknown>, nodes: Map<number, GraphNode>): GraphNode {
  const { $step: name, args, $id: id, options } = value;
  if (typeof name !== "string") throw new TypeError("$step must be a step's name");
  const body = findStep(name);
  if (body === undefined) throw new TypeError(`there is no step "${name}"`);
  if (!Array.isArray(args)) throw new TypeError(`the args of step "${name}" must be an array`);
  if (options !== undefined && !isPlain(options))
    throw new TypeError(`the options of step "${name}" must be an object`);
  if (options !== undefined)
    normaliseOptions(options as StepOptions, `step "${name}"`, body.options);
  const resolved = args.map((each) => nodeFrom(each, nodes));
  const node = new GraphNode(body, resolved, options);
  if (typeof id === "number") {
    // Set after the arguments, so that a node that refers to itself finds nothing.
    if (nodes.has(id)) throw new TypeError(`two nodes have the $id ${id}`);
    nodes.set(id, node);
  }
  return node;
}
