package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// flaskApp is the tutorial's application as it is printed there.
const flaskApp = `from flask import Flask
from redis import Redis
import os
import socket

app = Flask(__name__)
redis = Redis(host=os.environ.get('REDIS_HOST', '127.0.0.1'), port=6379)


@app.route('/')
def hello():
    redis.incr('hits')
    return 'Hello Container World! I have been seen %s times and my hostname is %s.\n' % (redis.get('hits'),socket.gethostname())


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=5000, debug=True)
`

// TestOverlaySeed is the tutorial's application on two hosts, with etcd on both, as
// its reader types it: the network appears on the second host by itself. Redis is named
// by its address.
func TestOverlaySeed(t *testing.T) {
	t.Parallel()
	engine := engines()[len(engines())-1]
	c := newCluster(t, clusterConfig{engines: []string{engine, engine}})
	node1, node2 := c.sites[0], c.sites[1]
	c.connected()
	node1.docker("network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=overlay", "demo")
	node2.eventually("demo on node2", func() error {
		if all := node2.docker("network", "ls", "--format", "{{.Name}}"); !strings.Contains(all, "demo") {
			return fmt.Errorf("docker network ls: %s", all)
		}
		return nil
	})
	c.must(node2.ImportApp(t.Context(), "redis", `CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"]`))
	c.must(node1.ImportApp(t.Context(), "python", `WORKDIR /app`))
	c.must(node1.WriteFile(t.Context(), "/root/flask/app.py", flaskApp, 0o644))
	node1.sh(`cd /root/flask && id=$(docker create python true) && docker cp app.py "$id":/app/app.py &&
docker commit --change 'EXPOSE 5000' --change 'CMD ["python3", "app.py"]' "$id" su/flask-redis && docker rm "$id"`)

	node2.docker("run", "-d", "--name", "redis", "--net", "demo", "redis")
	node1.docker("run", "-d", "--net", "demo", "-p", "5000:5000", "--name", "flask-redis", "-e", "REDIS_HOST="+node2.ip("redis", "demo"), "su/flask-redis")
	hello := func() (string, error) {
		return c.lab.Outside.Run(t.Context(), "curl", "-sS", "-m", "5", "http://"+hostPort(node1.IPv4.String(), 5000)+"/")
	}
	var out string
	c.comesTrue("flask to answer", func() (err error) {
		out, err = hello()
		return err
	})
	for n := 2; n <= 10; n++ {
		var err error
		if out, err = hello(); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("seen b'%d' times", n); !strings.Contains(out, want) {
			t.Fatalf("request %d: %q lacks %q", n, out, want)
		}
	}
	if ps := node1.docker("ps", "--format", "{{.Ports}}"); !strings.Contains(ps, ":5000->5000/tcp") {
		t.Errorf("docker ps shows %q", ps)
	}
}
