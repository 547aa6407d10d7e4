package e2e_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/weft-net/weft/test/lab"
)

// TestSeeds types the tutorials' command lines. `-d weft:latest` stands in the
// place of the built-in driver; where a tutorial publishes a port of the
// default bridge, the container is on a weft network instead, and where it
// shows the default bridge itself, that stays the engine's.
//
// Left out, because they are not a bridge network's: --net=none wired by hand,
// overlay and macvlan networks, and Swarm services.
func TestSeeds(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.nameServer()
		s.seedImages()
		s.step("two containers and a link", (*site).seedLink)
		s.step("localnet", (*site).seedLocalnet)
		s.step("flask and redis", (*site).seedFlask)
		s.step("mynet and secnet", (*site).seedMynet)
		s.step("connect to the default bridge", (*site).seedConnect)
		s.step("ports", (*site).seedPorts)
	}, withNameServer)
}

// seedImages makes images with the names, ports and answers of those that the
// tutorials pull.
func (s *site) seedImages() {
	s.Helper()
	serve := func(port int, answer string) string {
		return fmt.Sprintf(`CMD ["socat", "TCP-LISTEN:%d,fork,reuseaddr", "SYSTEM:%s"]`, port, answer)
	}
	s.image("nginx", "EXPOSE 80", serve(80, "echo Welcome to nginx"))
	s.image("tomcat:8.0.52", "EXPOSE 8080", serve(8080, "echo Apache Tomcat"))
	s.image("mysql:5.6", "EXPOSE 3306", serve(3306, "echo 5.6.51"))
	s.image("redis", "EXPOSE 6379", serve(6379, "echo hit >>/hits; wc -l </hits"))
	s.image("su/flask-redis", "EXPOSE 5000", serve(5000,
		"echo Hello Container World! I have been seen $(socat -u TCP\\\\:$REDIS_HOST\\\\:6379 -) times and my hostname is $(hostname)."))
	for _, name := range []string{"busybox", "ubuntu", "alpine", "training/webapp"} {
		s.docker("tag", lab.Image, name)
	}
}

// seed types a command line of a tutorial.
func (s *site) seed(line string) string {
	s.Helper()
	return strings.TrimSpace(s.sh(line))
}

// clear removes all containers and these networks.
func (s *site) clear(networks ...string) {
	s.Helper()
	s.must(s.removeAll(s.Context()))
	if len(networks) > 0 {
		s.docker(append([]string{"network", "rm"}, networks...)...)
	}
}

// pingsName pings as the tutorials do, with `docker exec`.
func (s *site) pingsName(container string, targets ...string) {
	s.Helper()
	for _, target := range targets {
		s.pings(s.from(container), target)
	}
}

// Dive into Docker: single host.
func (s *site) seedLink() {
	s.Helper()
	s.network("links")
	s.seed(`docker run -d --name test1 --network links busybox /bin/sh -c "while true;do sleep 3600;done"`)
	s.seed(`docker run -d --name test2 --network links busybox /bin/sh -c "while true;do sleep 3600;done"`)
	if out := s.docker("network", "inspect", "links"); !strings.Contains(out, `"test1"`) || !strings.Contains(out, `"test2"`) {
		s.Errorf("docker network inspect lacks the containers:\n%s", out)
	}
	s.pings(s.fromHost(), s.ip("test1", "links"))
	s.pingsName("test1", s.ip("test2", "links"))
	s.pingsName("test2", s.ip("test1", "links"))
	s.docker("rm", "-f", "test2")
	s.seed(`docker run -d --name test2 --network links --link test1 busybox /bin/sh -c "while true;do sleep 3600;done"`)
	s.pingsName("test2", s.ip("test1", "links"), "test1")

	// docker run --link <name>:<alias>
	s.seed(`docker run -d --name mysql01 --network links -p 3377:3306 -e MYSQL_ROOT_PASSWORD=1234 mysql:5.6`)
	s.answers(s.fromHost(), "127.0.0.1:3377", "5.6.51")
	s.seed(`docker run -d --name app --network links --link mysql01:db alpine sleep 1d`)
	s.answers(s.from("app"), "db:3306", "5.6.51")
	s.seed("docker run -d -P --name tom03 --network links --link test1 tomcat:8.0.52")
	s.pingsName("tom03", "test1")
	s.clear("links")
}

func (s *site) seedLocalnet() {
	s.Helper()
	s.seed("docker network create -d weft:latest localnet")
	if out := s.seed("docker network ls"); !regexp.MustCompile(`localnet +weft:latest +local`).MatchString(out) {
		s.Errorf("docker network ls lacks the network:\n%s", out)
	}
	s.seed("docker container run -d --name c1 --network localnet alpine sleep 1d")
	if out := s.seed("docker network inspect localnet"); !strings.Contains(out, `"c1"`) {
		s.Errorf("docker network inspect lacks c1:\n%s", out)
	}
	bridge := weftJSON[[]struct{ Device string }](s, "networks")[0].Device
	if out := s.seed("bridge link show"); strings.Count(out, "master "+bridge) != 1 {
		s.Errorf("bridge %s should have one interface:\n%s", bridge, out)
	}
	s.seed("docker container run -d --name c2 --network localnet --dns=8.8.8.8 --dns-search=dockercerts.com alpine sleep 1d")
	s.pingsName("c2", "c1")
	if out, err := s.in("c2", "cat", "/etc/resolv.conf"); err != nil || !strings.Contains(out, "dockercerts.com") {
		s.Errorf("resolv.conf: %s %v", out, err)
	}
	s.seed("docker container run -d --name web --network localnet --publish 5000:80 nginx")
	if out := s.seed("docker port web"); !strings.Contains(out, "80/tcp -> 0.0.0.0:5000") {
		s.Errorf("docker port web: %s", out)
	}
	s.answers(s.fromOutside(), s.IPv4.String()+":5000", "Welcome to nginx")
	s.clear()
	s.seed("docker network prune -f")
	if out := s.seed("docker network ls -q -f name=localnet"); out != "" {
		s.Errorf("docker network prune left %s", out)
	}
}

func (s *site) seedFlask() {
	s.Helper()
	s.network("flask")
	s.seed("docker run -d --name redis --network flask redis")
	s.seed("docker run -d --link redis -p 5000:5000 --name flask-redis --network flask -e REDIS_HOST=redis su/flask-redis")
	host := s.inspect("flask-redis", "{{.Config.Hostname}}")
	// A question whose answer came too late on a busy machine was counted, too.
	last := 0
	for range 2 {
		s.eventually("a higher count", func() error {
			out, err := get(s.fromOutside(), s.IPv4.String()+":5000")
			if err != nil {
				return err
			}
			var seen int
			var name string
			const words = "Hello Container World! I have been seen %d times and my hostname is %s"
			if _, err := fmt.Sscanf(out, words, &seen, &name); err != nil || seen <= last || strings.TrimSuffix(name, ".") != host {
				return fmt.Errorf("answer %q after %d", out, last)
			}
			last = seen
			return nil
		})
	}
	s.clear("flask")
}

func (s *site) seedMynet() {
	s.Helper()
	s.seed("docker network create -d weft:latest --gateway 192.168.0.1 --subnet 192.168.0.0/16 mynet")
	s.seed("docker run -d --name mynettom01 --network mynet tomcat:8.0.52")
	s.seed("docker run -d --name mynettom02 --network mynet tomcat:8.0.52")
	out := s.seed("docker network inspect mynet")
	for _, words := range []string{`"mynettom01"`, `"mynettom02"`, `"Subnet": "192.168.0.0/16"`, `"Gateway": "192.168.0.1"`} {
		if !strings.Contains(out, words) {
			s.Errorf("docker network inspect mynet lacks %s:\n%s", words, out)
		}
	}
	if out := s.seed("docker exec mynettom01 ip addr"); !strings.Contains(out, "inet 192.168.0.2/16") {
		s.Errorf("ip addr: %s", out)
	}
	s.pingsName("mynettom01", "mynettom02")
	s.pingsName("mynettom02", "mynettom01")

	s.seed("docker network create -d weft:latest --gateway 192.167.0.1 --subnet 192.167.0.0/16 secnet")
	s.seed("docker run -d --name tom03 --network secnet tomcat:8.0.52")
	s.noPing(s.from("tom03"), s.ip("mynettom01", "mynet"))
	s.seed("docker network connect mynet tom03")
	s.pingsName("tom03", "mynettom01", "mynettom02", s.ip("mynettom01", "mynet"))
	s.pingsName("mynettom01", "tom03")
	if out := s.seed("docker exec tom03 ip addr"); !strings.Contains(out, "inet 192.167.0.") || !strings.Contains(out, "inet 192.168.0.") {
		s.Errorf("tom03 should have two addresses:\n%s", out)
	}
	s.seed("docker network disconnect mynet tom03")
	s.noPing(s.from("tom03"), s.ip("mynettom01", "mynet"))
	s.clear("mynet", "secnet")
}

func (s *site) seedConnect() {
	s.Helper()
	s.seed("docker network create --driver weft:latest mynet")
	s.seed("docker run -itd --net mynet --name c1 ubuntu bash")
	s.seed("docker run -itd --net mynet --name c2 ubuntu bash")
	s.seed("docker run -itd --net mynet --name c3 ubuntu bash")
	s.seed("docker run -itd --name c4 ubuntu bash")
	s.seed("docker network connect bridge c3")
	if out := s.seed("docker network inspect bridge"); !strings.Contains(out, `"c3"`) || !strings.Contains(out, `"c4"`) {
		s.Errorf("docker network inspect bridge lacks a container:\n%s", out)
	}
	c4 := s.ip("c4", "bridge")
	s.pingsName("c3", "c1", "c2", c4)
	s.pingsName("c2", "c1", "c2", "c3")
	for _, c := range []string{"c2", "c3"} {
		if out, err := s.in(c, "ping", "-c1", "c4"); err == nil || !strings.Contains(err.Error(), "Name or service not known") {
			s.Errorf("%s should not know c4: %s %v", c, out, err)
		}
	}
	s.noPing(s.from("c2"), c4)
	s.clear("mynet")
}

func (s *site) seedPorts() {
	s.Helper()
	s.network("ports")
	host := s.IPv4.String()
	shows := func(line, words string) {
		s.Helper()
		if out := s.seed(line); !strings.Contains(out, words) {
			s.Errorf("%s lacks %q:\n%s", line, words, out)
		}
	}
	nginx := "Welcome to nginx"

	s.seed("docker run --name web -d -p 80:80 --network ports nginx")
	s.answers(s.fromOutside(), host+":80", nginx)
	s.docker("rm", "-f", "web")

	s.seed("docker run -d -p 8880:80 --name my_nginx_p --network ports nginx")
	shows("docker ps", "0.0.0.0:8880->80/tcp")
	shows("docker ps | tr -d '[]'", ":::8880->80/tcp")
	shows("ss -tlnp | grep 8880", "docker-proxy")
	s.answers(s.fromOutside(), host+":8880", nginx)

	s.seed("docker run -d -P --rm --name my_nginx01 --network ports nginx")
	random := s.seed("docker port my_nginx01")
	m := regexp.MustCompile(`80/tcp -> 0\.0\.0\.0:(\d+)`).FindStringSubmatch(random)
	if m == nil {
		s.Fatalf("docker port: %s", random)
	}
	shows("docker ps", "0.0.0.0:"+m[1]+"->80/tcp")
	s.answers(s.fromOutside(), host+":"+m[1], nginx)

	s.seed("docker run -d -p 127.0.0.1:5000:5000 --name webapp --network ports training/webapp socat TCP-LISTEN:5000,fork 'SYSTEM:echo Hello world!'")
	shows("docker ps", "127.0.0.1:5000->5000/tcp")
	s.answers(s.fromHost(), "127.0.0.1:5000", "Hello world!")
	s.silent(s.fromOutside(), host+":5000")

	s.seed("docker run -d --name nginx -p 80 --network ports nginx")
	m = regexp.MustCompile(`^map\[80/tcp:\[\{0\.0\.0\.0 (\d+)\}`).FindStringSubmatch(s.seed(`docker inspect --format='{{.NetworkSettings.Ports}}' nginx`))
	if m == nil {
		s.Fatalf("docker inspect shows no port: %s", s.seed(`docker inspect --format='{{.NetworkSettings.Ports}}' nginx`))
	}
	s.answers(s.fromOutside(), host+":"+m[1], nginx)
	s.docker("rm", "-f", "nginx")

	s.seed("docker run -d --name nginx -p " + host + ":80:80 --network ports nginx")
	shows("docker port nginx", "80/tcp -> "+host+":80")
	s.answers(s.fromOutside(), host+":80", nginx)
	s.silent(s.fromHost(), "127.0.0.1:80")
	s.clear("ports")
}
