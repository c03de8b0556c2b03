// The operations of an OpenAPI document, with what they refer to, and what all of them share.

export function resolved(api, value) {
  if (!value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((found, name) => found[name.replace("~1", "/")], api);
}

// HEAD is left out, as it works wherever GET does.
export function operationsOf(api) {
  const all = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).filter(([method]) => method !== "head").map(([method, operation]) =>
      ({ path, method, operation })));
  const sets = all.map(({ operation }) => Object.values(operation.responses).map((response) => response.$ref));
  const isCommon = (response) => response.$ref && sets.every((set) => set.includes(response.$ref));
  const operations = all.map(({ path, method, operation }) => ({
    path,
    method,
    id: operation.operationId,
    tag: operation.tags[0],
    summary: operation.summary,
    description: operation.description,
    body: operation.requestBody,
    parameters: (operation.parameters ?? []).map((one) => resolved(api, one)),
    responses: Object.entries(operation.responses)
      .filter(([, response]) => !isCommon(response))
      .map(([status, response]) => [status, withHeaders(api, resolved(api, response))]),
  }));
  const common = Object.entries(all[0].operation.responses).filter(([, response]) => isCommon(response));
  return { operations, common };
}

function withHeaders(api, response) {
  const headers = Object.entries(response.headers ?? {}).map(([name, header]) => [name, resolved(api, header)]);
  return { ...response, headers: Object.fromEntries(headers) };
}
