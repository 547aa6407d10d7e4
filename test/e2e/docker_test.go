package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// command is a docker command whose result matters and not its command line. The plain
// ones are said to the engine's API: the start of the docker command takes 20 to 70 ms of
// processor time, as much as the engine itself needs for most of them. What users type,
// what is timed and what must fail goes through [lab.Host.Docker].
func (s *site) command(args ...string) (string, error) {
	if requests, ok := plain(args); ok {
		for _, r := range requests {
			if host, ok := r.body["HostConfig"].(object); ok {
				host["Runtime"] = s.Runtime()
			}
		}
		return s.say(requests)
	}
	return s.Docker(s.Context(), args...)
}

// plain returns the calls of the API that are a plain command.
func plain(args []string) ([]request, bool) {
	for _, one := range []func([]string) ([]request, bool){plainRun, plainNetwork, plainConnect, plainContainers} {
		if requests, ok := one(args); ok {
			return requests, true
		}
	}
	return nil, false
}

// commandLimit bounds a command, as the lab does.
const commandLimit = 2 * time.Minute

// A request is a call of the engine's API.
type request struct {
	method, path string
	body         object
}

// say sends requests, one after the other; a %s in a path is the id that the first one
// has brought. It returns that id.
func (s *site) say(requests []request) (string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), commandLimit)
	defer cancel()
	api := s.api()
	defer api.CloseIdleConnections()
	var made struct{ ID string }
	for i, r := range requests {
		if strings.Contains(r.path, "%s") {
			r.path = fmt.Sprintf(r.path, made.ID)
		}
		answer, err := api.Call(ctx, r.method, r.path, r.body)
		if err != nil && r.method == http.MethodDelete && strings.Contains(err.Error(), "No such container") {
			continue // as docker rm -f
		}
		if err != nil {
			return made.ID, fmt.Errorf("%s: %w", s.Host.Name, err)
		}
		if i == 0 && strings.HasPrefix(answer, "{") {
			if err := json.Unmarshal([]byte(answer), &made); err != nil {
				return "", fmt.Errorf("%s: %s %s: %w", s.Host.Name, r.method, r.path, err)
			}
		}
	}
	return made.ID, nil
}

// flags are the values of each flag, with its dashes; bare flags have "".
type flags map[string][]string

func (f flags) has(name string) bool { return len(f[name]) > 0 }

func (f flags) last(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// split takes the flags from arguments; not ok if there is one that is not named. Where
// flags are not mixed with words, the first word ends them.
func split(args []string, valued, bare []string, mixed bool) (f flags, words []string, ok bool) {
	f = flags{}
	for len(args) > 0 {
		name := args[0]
		switch {
		case !strings.HasPrefix(name, "-") && !mixed:
			return f, append(words, args...), true
		case !strings.HasPrefix(name, "-"):
			words = append(words, name)
		case slices.Contains(bare, name):
			f[name] = append(f[name], "")
		case slices.Contains(valued, name) && len(args) > 1:
			f[name] = append(f[name], args[1])
			args = args[1:]
		default:
			return nil, nil, false
		}
		args = args[1:]
	}
	return f, words, true
}

var plainPort = regexp.MustCompile(`^([0-9]+):([0-9]+)(/udp)?$`)

// plainRun is docker run -d of a container on one network.
func plainRun(args []string) ([]request, bool) {
	if len(args) == 0 || args[0] != "run" {
		return nil, false
	}
	f, words, ok := split(args[1:], []string{"--name", "--network", "-p", "--ip", "--ip6", "--network-alias", "--restart", "--stop-signal", "--hostname"}, []string{"-d"}, false)
	if !ok || !f.has("-d") || !f.has("--name") || len(f["--network"]) != 1 || len(words) < 2 {
		return nil, false
	}
	exposed, bound := object{}, object{}
	for _, p := range f["-p"] {
		m := plainPort.FindStringSubmatch(p)
		if m == nil {
			return nil, false
		}
		port := m[2] + "/tcp"
		if m[3] != "" {
			port = m[2] + m[3]
		}
		earlier, _ := bound[port].([]object)
		exposed[port], bound[port] = object{}, append(earlier, object{"HostPort": m[1]})
	}
	network := f.last("--network")
	endpoint := object{"Aliases": f["--network-alias"]}
	if f.has("--ip") || f.has("--ip6") {
		endpoint["IPAMConfig"] = object{"IPv4Address": f.last("--ip"), "IPv6Address": f.last("--ip6")}
	}
	body := object{
		"Image": words[0], "Cmd": words[1:], "Hostname": f.last("--hostname"), "ExposedPorts": exposed,
		"HostConfig":       object{"NetworkMode": network, "PortBindings": bound, "RestartPolicy": object{"Name": f.last("--restart")}},
		"NetworkingConfig": object{"EndpointsConfig": object{network: endpoint}},
	}
	if f.has("--stop-signal") {
		body["StopSignal"] = f.last("--stop-signal")
	}
	return []request{
		{http.MethodPost, "/containers/create?name=" + f.last("--name"), body},
		{http.MethodPost, "/containers/%s/start", nil},
	}, true
}

// plainNetwork is docker network create.
func plainNetwork(args []string) ([]request, bool) {
	if len(args) < 2 || args[0] != "network" || args[1] != "create" {
		return nil, false
	}
	f, words, ok := split(args[2:], []string{"-d", "-o", "--ipam-driver", "--subnet", "--gateway"}, []string{"--ipv6", "--internal"}, true)
	if !ok || len(words) != 1 || !f.has("-d") {
		return nil, false
	}
	pools := []object{}
	gateways := f["--gateway"]
	for _, text := range f["--subnet"] {
		subnet, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, false
		}
		pool := object{"Subnet": text}
		for _, g := range gateways {
			if a, err := netip.ParseAddr(g); err == nil && subnet.Contains(a) {
				pool["Gateway"] = g
				gateways = slices.DeleteFunc(slices.Clone(gateways), func(other string) bool { return other == g })
			}
		}
		pools = append(pools, pool)
	}
	if len(gateways) > 0 {
		return nil, false
	}
	options := object{}
	for _, o := range f["-o"] {
		key, value, _ := strings.Cut(o, "=")
		options[key] = value
	}
	ipam := object{"Driver": "default", "Config": pools}
	if f.has("--ipam-driver") {
		ipam["Driver"] = f.last("--ipam-driver")
	}
	body := object{"Name": words[0], "CheckDuplicate": true, "Driver": f.last("-d"), "IPAM": ipam, "Options": options, "Internal": f.has("--internal")}
	if f.has("--ipv6") {
		body["EnableIPv6"] = true
	}
	return []request{{http.MethodPost, "/networks/create", body}}, true
}

// plainConnect is docker network connect and disconnect.
func plainConnect(args []string) ([]request, bool) {
	if len(args) != 4 || args[0] != "network" || args[1] != "connect" && args[1] != "disconnect" || strings.HasPrefix(args[2], "-") {
		return nil, false
	}
	return []request{{http.MethodPost, "/networks/" + args[2] + "/" + args[1], object{"Container": args[3]}}}, true
}

// plainContainers is docker rm -f, start and network rm.
func plainContainers(args []string) ([]request, bool) {
	for _, c := range []struct {
		words        string
		method, path string
		after        string
	}{
		{"rm -f ", http.MethodDelete, "/containers/", "?force=1"},
		{"network rm ", http.MethodDelete, "/networks/", ""},
		{"start ", http.MethodPost, "/containers/", "/start"},
	} {
		names, ok := strings.CutPrefix(strings.Join(args, " "), c.words)
		if !ok || strings.Contains(" "+names, " -") {
			continue
		}
		var requests []request
		for name := range strings.FieldsSeq(names) {
			requests = append(requests, request{c.method, c.path + name + c.after, nil})
		}
		return requests, true
	}
	return nil, false
}

// removeAll removes all containers, eight at a time: engines lose track of more.
func (s *site) removeAll(ctx context.Context) error {
	api := s.api()
	defer api.CloseIdleConnections()
	answer, err := api.Call(ctx, http.MethodGet, "/containers/json?all=1", nil)
	if err != nil {
		return err
	}
	var all []struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &all); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(8)
	for _, ct := range all {
		g.Go(func() error {
			_, err := api.Call(ctx, http.MethodDelete, "/containers/"+ct.ID+"?force=1", nil)
			return err
		})
	}
	return g.Wait()
}

// TestPlain: what is said to the API is what the docker command would say, and whatever is
// not known by heart is left to it.
func TestPlain(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"network connect a b": `[{"POST /networks/a/connect":{"Container":"b"}}]`,
		"rm -f a b-c":         `[{"DELETE /containers/a?force=1":null},{"DELETE /containers/b-c?force=1":null}]`,
		"network create -d w --subnet 10.1.0.0/24 --gateway 10.1.0.9 -o x=y=z n":                `[{"POST /networks/create":{"CheckDuplicate":true,"Driver":"w","IPAM":{"Config":[{"Gateway":"10.1.0.9","Subnet":"10.1.0.0/24"}],"Driver":"default"},"Internal":false,"Name":"n","Options":{"x":"y=z"}}}]`,
		"run -d --name a --network n -p 80:8080 -p 81:8080 -p 53:53/udp --ip 10.1.0.7 i cmd -x": `[{"POST /containers/create?name=a":{"Cmd":["cmd","-x"],"ExposedPorts":{"53/udp":{},"8080/tcp":{}},"HostConfig":{"NetworkMode":"n","PortBindings":{"53/udp":[{"HostPort":"53"}],"8080/tcp":[{"HostPort":"80"},{"HostPort":"81"}]},"RestartPolicy":{"Name":""}},"Hostname":"","Image":"i","NetworkingConfig":{"EndpointsConfig":{"n":{"Aliases":null,"IPAMConfig":{"IPv4Address":"10.1.0.7","IPv6Address":""}}}}}},{"POST /containers/%s/start":null}]`,
		"run -d --name a --network n -p 127.0.0.1:80:80 i c":                                    "", "run -d --name a --network n --mtu 5 i c": "", "run --name a --network n i c": "",
		"run -d --name a --network n --network m i c": "", "network create -d w --label x n": "", "network create -d w --gateway 10.1.0.1 n": "",
		"network connect --ip 10.1.0.7 a b": "", "rm -f -v a": "", "rm a": "", "stop a": "",
	} {
		requests, ok := plain(strings.Fields(line))
		var calls []object
		for _, r := range requests {
			calls = append(calls, object{r.method + " " + r.path: r.body})
		}
		got, err := json.Marshal(calls)
		if err != nil {
			t.Fatal(err)
		}
		if ok != (want != "") || ok && string(got) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", line, ok, got, want)
		}
	}
}
