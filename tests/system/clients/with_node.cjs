// OpenAI's client for Node: asks what the JSON on standard input says, and prints the answers as JSON.
const fs = require("node:fs");
const OpenAI = require("openai");

const task = JSON.parse(fs.readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: task.url + "/v1", apiKey: "none", maxRetries: 0 });

function create(question, fields = {}) {
  const messages = Array.isArray(question) ? question : [{ role: "user", content: question }];
  return client.chat.completions.create({ model: "demo-vl", messages, temperature: 0, ...fields });
}

async function useATool() {
  const tools = [{ type: "function", function: task.tool }];
  const { message } = (await create(task.errand, { tools })).choices[0];
  const [call] = message.tool_calls;
  const told = { role: "tool", tool_call_id: call.id, content: task.result };
  const answer = await create([{ role: "user", content: task.errand }, message, told], { tools });
  return {
    name: call.function.name,
    arguments: JSON.parse(call.function.arguments),
    told: answer.choices[0].message.content,
  };
}

async function pieces() {
  const found = [];
  for await (const chunk of await create(task.question, { stream: true })) {
    found.push(chunk.choices[0].delta.content ?? "");
  }
  return found;
}

async function fillAForm() {
  const form = { type: "json_schema", json_schema: { name: "shape", schema: task.schema, strict: true } };
  return JSON.parse((await create(task.question, { response_format: form })).choices[0].message.content);
}

async function refused() {
  try {
    await create("hi", { model: "no-such-model" });
  } catch (error) {
    return error.constructor.name;
  }
  return "";
}

async function main() {
  const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${task.picture}` } };
  const look = [{ role: "user", content: [picture, { type: "text", text: task.look }] }];
  const file = fs.createReadStream(task.recording);
  const heard = await client.audio.transcriptions.create({ model: "demo-whisper", file, language: "en" });
  return {
    text: (await create(task.question)).choices[0].message.content,
    pieces: await pieces(),
    seen: (await create(look)).choices[0].message.content,
    call: await useATool(),
    form: await fillAForm(),
    heard: heard.text,
    refused: await refused(),
  };
}

main().then((answers) => console.log(JSON.stringify(answers)));
