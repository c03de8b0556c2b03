-- ROWS observations as one infer request; the logits come back as bytes.
local rows = tonumber(os.getenv("ROWS"))
local json = string.format(
  '{"inputs":[{"name":"observation","shape":[%d,4],"datatype":"FP32",' ..
  '"parameters":{"binary_data_size":%d}}],' ..
  '"outputs":[{"name":"logits","parameters":{"binary_data":true}}]}', rows, 16 * rows)
-- position 0, velocity 0, angle -1, angular velocity 0, as little-endian float32
local row = "\0\0\0\0" .. "\0\0\0\0" .. "\0\0\128\191" .. "\0\0\0\0"
wrk.method, wrk.path = "POST", "/v2/models/cartpole/infer"
wrk.body = json .. string.rep(row, rows)
wrk.headers["Inference-Header-Content-Length"] = tostring(#json)
wrk.headers["Content-Type"] = "application/octet-stream"
