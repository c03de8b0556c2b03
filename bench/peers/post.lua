wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"position":0.0123,"velocity":-0.4567,"angle":0.0345,"angular_velocity":0.789}'
