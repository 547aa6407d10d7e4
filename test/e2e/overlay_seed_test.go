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

// TestOverlaySeed is the tutorial's application on two hosts, with etcd on both, as its
// reader types it: the network appears on the second host by itself, and redis is named by
// its name, on each engine, or by its address, and with compose where that exists.
func TestOverlaySeed(t *testing.T) {
	t.Parallel()
	for _, engine := range storyEngines() {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, clusterConfig{engines: []string{engine, engine}})
			c.tutorial()
			if c.sites[0].atLeast(26) { // Debian's oldest release has no `docker compose`
				c.counts("5000", func() { c.flask(c.sites[1].ip("redis", "demo")) }, 11)
				c.composed()
			}
		})
	}
}

// tutorial makes the application: flask on node 1 counts in redis on node 2.
func (c *cluster) tutorial() {
	c.Helper()
	node1, node2 := c.sites[0], c.sites[1]
	c.connected()
	node1.docker("network", "create", "-d", plugin, "--ipam-driver", plugin, "-o", "mode=overlay", "demo")
	node2.eventually("demo on node2", func() error {
		if all := node2.docker("network", "ls", "--format", "{{.Name}}"); !strings.Contains(all, "demo") {
			return fmt.Errorf("docker network ls: %s", all)
		}
		return nil
	})
	c.must(node2.ImportApp(c.Context(), "redis", `CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"]`))
	c.must(node1.ImportApp(c.Context(), "python", `WORKDIR /app`))
	c.must(node1.WriteFile(c.Context(), "/root/flask/app.py", flaskApp, 0o644))
	node1.sh(`cd /root/flask && id=$(docker create python true) && docker cp app.py "$id":/app/app.py &&
docker commit --change 'EXPOSE 5000' --change 'CMD ["python3", "app.py"]' "$id" su/flask-redis && docker rm "$id"`)
	node2.docker("run", "-d", "--name", "redis", "--net", "demo", "redis")
	c.counts("5000", func() { c.flask("redis") }, 1)
}

// flask starts the application as the tutorial does.
func (c *cluster) flask(redis string) {
	c.sites[0].docker("run", "-d", "--net", "demo", "-p", "5000:5000", "--name", "flask-redis", "-e", "REDIS_HOST="+redis, "su/flask-redis")
}

// counts starts the application and asks it ten times from outside.
func (c *cluster) counts(port string, start func(), first int) {
	c.Helper()
	start()
	node1 := c.sites[0]
	hello := func() (string, error) {
		return c.lab.Outside.Run(c.Context(), "curl", "-sS", "-m", "5", "http://"+node1.IPv4.String()+":"+port+"/")
	}
	var out string
	c.comesTrue("flask to answer", func() (err error) {
		out, err = hello()
		return err
	})
	for n := first + 1; n < first+10; n++ {
		var err error
		if out, err = hello(); err != nil {
			c.Fatal(err)
		}
		if want := fmt.Sprintf("seen b'%d' times", n); !strings.Contains(out, want) {
			c.Fatalf("request %d: %q lacks %q", n, out, want)
		}
	}
	if ps := node1.docker("ps", "--format", "{{.Ports}}"); !strings.Contains(ps, ":"+port+"->5000/tcp") {
		c.Errorf("docker ps shows %q", ps)
	}
	node1.docker("rm", "-f", node1.docker("ps", "-q", "-f", "publish="+port))
}

// composeFile is the application as one project on both nodes, which each runs a part of.
const composeFile = `name: counter
services:
  redis:
    image: redis
    networks: [back]
  web:
    image: su/flask-redis
    environment: {REDIS_HOST: redis}
    ports: ["5001:5000"]
    networks: [back]
networks:
  back:
    driver: weft:latest
    driver_opts: {mode: overlay}
    ipam: {driver: weft:latest}
    labels: {team: tutorial}
`

// composed: the network that compose made on one node is taken by compose on the other.
func (c *cluster) composed() {
	c.Helper()
	node1, node2 := c.sites[0], c.sites[1]
	for _, s := range c.sites {
		c.must(s.WriteFile(c.Context(), "/root/compose.yaml", composeFile, 0o644))
	}
	compose := func(s *site, args ...string) string {
		c.Helper()
		out, err := s.Run(c.Context(), append([]string{"docker", "compose", "-f", "/root/compose.yaml"}, args...)...)
		if err != nil {
			c.Fatalf("docker compose %v: %v", args, err)
		}
		return out
	}
	compose(node2, "up", "-d", "redis")
	c.has("counter_back", true, c.sites...)
	before := node1.docker("network", "inspect", "-f", "{{.Id}}", "counter_back")
	c.counts("5001", func() { compose(node1, "up", "-d", "web") }, 1)
	if after := node1.docker("network", "inspect", "-f", "{{.Id}}", "counter_back"); after != before {
		c.Errorf("compose made the network anew: %s instead of %s", after, before)
	}
	compose(node1, "down")
	compose(node2, "down")
	c.has("counter_back", false, c.sites...)
}
