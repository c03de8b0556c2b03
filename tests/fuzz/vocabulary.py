"""What random requests are made of: good, bad and odd parts of heads and bodies."""

NAMES = (b"position", b"velocity", b"angle", b"angular_velocity")
NUMBERS = b"0 -1 .5 1. -0.25 1.5e-3 +2 %31 %2B1 1e39 x 1_0 1.2.3 nan -".split()
NUMBERS += [b"", b"9" * 31]
PARAMETERS = (
    b'x|x=1|=1|%zz=1|y="|z=<>|#f|\xe9|\x01|\x7f|?|a=`{}\\^~|position=1|a=/..|;||a b|a\tb|angl%65=1'
).split(b"|")
NEUTRAL = (
    b"Accept: */*|User-Agent: k6/1.0|Accept-Encoding: gzip|Accept-Encoding: *;q=0|"
    b"Cookie: a=b; c=d|X-Empty:|X-Space: y \t|X-Tab:\ty|X-High: \xff\xe9|If-None-Match: *|"
    b"Range: bytes=0-1|TE: trailers|Keep-Alive: timeout=5|Content-Type: application/json|"
    b"Accept-Encoding: deflate"
).split(b"|")
CONNECTION = (
    b"Connection: close|connection:close|Connection: Close \t|Connection: x, close|Connection: TE|"
    b"Connection: keep-alive|Connection: keep-alive, close|Connection: keep-alive \t|Connection:|"
    b"Proxy-Connection: close|Proxy-Connection: keep-alive|Connection: close\r\nConnection: x"
).split(b"|")
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket|"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c|"
    b"Connection: upgrade, close\r\nUpgrade: h2c|Upgrade: h2c|Connection: Upgrade|"
    b"Upgrade: h2c\r\nConnection: keep-alive, Upgrade"
).split(b"|")
BAD = (
    b"no colon|X : y| folded|X: y\r\n z|: b|X(: y|X: a\0b|X: a\rb|X: a\nb|Host: b|Host:|"
    b"Expect: a-pony|Content-Length: 1x|Content-Length: -1|Content-Length: 01|"
    b"Content-Length: 1, 1|Content-Length:|Content-Length: 1\r\nContent-Length: 1|"
    b"Content-Length: 5\r\nTransfer-Encoding: chunked|Transfer-Encoding: gzip, chunked|"
    b"Transfer-Encoding: chunked, gzip|Content-Length: 99999|"
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked|Transfer-Encoding: x"
).split(b"|")
# None has an answer that is too large for a client's receive buffer: a client that sends more after
# its own Connection: close may be reset before it can read such an answer.
STARTS = (
    b"HEAD /inference?position=1|HEAD /health/live|HEAD /|HEAD /nothing|OPTIONS *|"
    b"OPTIONS /inference|GET /health/live|GET /health/ready?x=1|GET /v2|GET /v2/health/ready|"
    b"GET /v2/models/cartpole|GET /nothing|GET /|GET /docs|GET /docs.js|GET /style.css|"
    b"GET /inference|GET /inference/|GET //inference|GET http://a|GET HTTP://a:80/health/live|"
    b"GET http://u@a/inference|GET *|PUT /|GET inference|GET /inference#f|GET  /health/live|"
    b"DELETE /inference|TRACE /|get /inference|G@T /|CONNECT a:80|QUERY /inference|DESCRIBE /|"
    b"GET /%69nference|GET /v2/models/cartpole/config"
).split(b"|")
VERSIONS = b"HTTP/2.0 HTTP/1.2 HTTP/3 http/1.1 RTSP/1.0 ICE/1.0 HTTP/0.9 HTTP/11 HTTP/1.1x".split()
TRAILERS = (
    b"X: y|Connection: close|Proxy-Connection: close|Connection: keep-alive|Connection: Upgrade|"
    b"Upgrade: h2c|Connection: Upgrade\r\nUpgrade: h2c|Host: b|Expect: 100-continue|"
    b"X: y\r\nConnection: close"
).split(b"|")
CHUNKS = (
    b"z|-1|0x1|1 |fffffffffffffffff|1\n|1;a\x01|5\r\nab\r\n0\r\n|1\r\nab|\r\n|0\r\nnothing\r\n|"
    b"0\r\nX : y\r\n|0\r\nContent-Length: 5\r\n|0\r\nTransfer-Encoding: chunked\r\n"
).split(b"|")
JSON = (
    b'{}|[]|[[1,2,3]]|[[1,2,3,"x"]]|nonsense||\xff|{"observations":1}|[[1e39,0,0,0]]|null|[[NaN]]'
).split(b"|")
