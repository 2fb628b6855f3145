"use strict";
// The routes of openapi.json, drawn without any library.

const make = (tag, text, ...classes) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.classList.add(...classes);
  return element;
};

function resolve(schema, all) {
  return schema && schema.$ref ? all[schema.$ref.split("/").pop()] : schema || {};
}

function words(schema, all) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((s) => words(s, all)).join(" or ");
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${words(schema.items || {}, all)}`;
  const low = schema.minimum ?? schema.exclusiveMinimum ?? schema.minLength;
  const high = schema.maximum ?? schema.maxLength;
  const range = low !== undefined || high !== undefined ? ` (${low ?? ""}…${high ?? ""})` : "";
  return (schema.type || "anything") + range;
}

function table(schema, all, answer = false) {
  const rows = make("table", "", "fields");
  const needed = new Set(schema.required || []);
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const row = rows.insertRow();
    row.append(make("th", name), make("td", words(field, all)));
    row.append(make("td", answer ? "" : needed.has(name) ? "needed" : field.default === undefined ? "" : `else ${JSON.stringify(field.default)}`, "soft"));
  }
  return rows;
}

async function draw() {
  const api = await (await fetch("openapi.json")).json();
  const all = (api.components || {}).schemas || {};
  const main = document.getElementById("routes");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const section = make("section", "", "route");
      const title = make("h2");
      title.append(make("code", method.toUpperCase(), "method"), make("code", path));
      section.append(title);
      if (route.description) section.append(make("p", route.description));
      const content = route.requestBody && route.requestBody.content;
      if (content) {
        section.append(make("p", `Body: ${Object.keys(content).join(" or ")}`, "soft"));
        section.append(table(resolve(Object.values(content)[0].schema, all), all));
      }
      for (const parameter of route.parameters || []) {
        section.append(make("p", `${parameter.name} in the ${parameter.in}: ${words(parameter.schema, all)}`, "soft"));
      }
      const good = Object.entries(route.responses).find(([status]) => status.startsWith("2"));
      const answer = good && good[1].content && Object.values(good[1].content)[0].schema;
      if (answer) {
        section.append(make("p", `Answer, ${good[0]}:`, "soft"));
        section.append(table(resolve(answer, all), all, true));
      }
      main.append(section);
    }
  }
  const sockets = make("section", "", "route");
  const title = make("h2");
  title.append(make("code", "WEBSOCKET", "method"), make("code", "/v1/sessions/{session_id}/stream"));
  sockets.append(title, make("p", 'Send {"observation": …} or {"reset": seed}: text is JSON, binary is msgpack. The answers are those of act, or {"error": …}.'));
  main.append(sockets);
  const problem = resolve({ $ref: "ErrorBody" }, all);
  if (problem) {
    const errors = make("section", "", "route");
    errors.append(make("h2", "When something is wrong"), make("p", "Every answer of 400 and above is {\"error\": …} with these fields:"));
    errors.append(table(all.Problem || {}, all, true));
    main.append(errors);
  }
}

draw();
