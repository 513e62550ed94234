/**
 * The pages for people in a real Chromium: SPORE_TEST_CHROMIUM names it, else it is looked for under
 * its usual names. Links of external events are all the pages there are.
 */
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { putAway, type ServerProcess, startProject } from "./kit.ts";
import { approval } from "./project.ts";

const executablePath = process.env.SPORE_TEST_CHROMIUM || onPath() || "";
const without =
  executablePath === ""
    ? " (skipped: no Chromium on the PATH, and SPORE_TEST_CHROMIUM names none)"
    : "";

function onPath(): string | undefined {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const names = ["chromium", "chromium-browser", "google-chrome"];
  return names.flatMap((name) => folders.map((each) => join(each, name))).find(existsSync);
}

describe.skipIf(executablePath === "")(`the page of an event${without}`, () => {
  let server: ServerProcess;
  let browser: Browser;
  let page: Page;
  /** What the browser complained of, and what it asked of other places. */
  const complaints: string[] = [];

  beforeAll(async () => {
    server = await startProject({});
    browser = await chromium.launch({ executablePath });
    page = await browser.newPage();
    page.on("console", (message) => complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url)) complaints.push(request.url());
    });
  });

  afterAll(async () => {
    await browser?.close();
    await putAway();
  });

  async function awaited(id: string): Promise<string> {
    const run = await server.client.start(approval.with(3_600_000), { id });
    return (await run.published<{ url: string }>("event")).url;
  }

  const heading = () => page.getByRole("heading").textContent();

  it("shows what is asked, in its own style, and a click decides", async () => {
    await page.goto(await awaited("clicked"));
    expect(await page.title()).toBe("A decision is asked for");
    expect(await page.getByRole("paragraph").textContent()).toBe("ship <order> 7");
    expect(await page.evaluate("getComputedStyle(document.body).maxWidth")).toBe("512px");
    await page.reload();
    expect(await server.client.getStatus("clicked")).toBe("RUNNING");
    await page.getByRole("button", { name: "Approve" }).click();
    expect(await heading()).toBe("Decided");
    expect(await server.client.getOutput("clicked")).toBe(true);
    expect(complaints).toEqual([]);
  });

  it("stays decided, whoever has it open still and says otherwise", async () => {
    const url = await awaited("twice");
    await page.goto(url);
    const other = await browser.newPage();
    await other.goto(url);
    await other.getByRole("button", { name: "Decline" }).click();
    expect(await other.getByRole("heading").textContent()).toBe("Decided");
    await page.getByRole("button", { name: "Approve" }).click();
    expect(await heading()).toBe("Decided before");
    expect(await server.client.getOutput("twice")).toBe(false);
    await page.goto(url);
    expect(await heading()).toBe("Decided");
  });

  it("decides nothing from a page of another site", async () => {
    const url = await awaited("framed");
    await page.goto("about:blank");
    await page.setContent(
      `<iframe src="${url}"></iframe><form method="post" action="${url}?decision=approve"><button>Win</button></form>`,
    );
    await page.getByRole("button", { name: "Win" }).click();
    await page.waitForURL(/decision=approve/);
    expect(await page.content()).not.toContain("<h1>Decided</h1>");
    expect(await server.client.getStatus("framed")).toBe("RUNNING");
  });
});
