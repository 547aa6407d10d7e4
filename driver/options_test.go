package driver

import (
	"errors"
	"strings"
	"testing"
)

func known() []Option {
	return []Option{
		{Name: "mode", Check: OneOf("bridge", "overlay")},
		{Name: "publish", Check: OneOf("docker", "native")},
		{Name: "com.docker.network.bridge.enable_icc", Check: Bool},
		{Name: "com.docker.network.driver.mtu"},
		{Name: "com.docker.network.bridge.name", Check: InterfaceName},
	}
}

func TestCheckOptions(t *testing.T) {
	for _, c := range []struct {
		name  string
		given map[string]string
		words []string // of the error; none: success
		hint  string
	}{
		{"nothing", nil, nil, ""},
		{"good", map[string]string{"mode": "bridge", "com.docker.network.bridge.enable_icc": "False"}, nil, ""},
		{"unknown Docker key", map[string]string{"com.docker.network.bridge.future": "1"}, nil, ""},
		{"misspelt", map[string]string{"pubish": "native"}, []string{`no option "pubish"`}, `"publish"`},
		{"last word only", map[string]string{"enable_icc": "false"}, []string{`no option "enable_icc"`}, `"com.docker.network.bridge.enable_icc"`},
		{"nothing near", map[string]string{"x": "1"}, []string{`no option "x"`}, ""},
		{"bad value", map[string]string{"publish": "nobody"}, []string{`publish="nobody"`, "docker, native"}, ""},
		{"bad boolean", map[string]string{"com.docker.network.bridge.enable_icc": "yes"}, []string{`"yes"`, "true or false"}, ""},
		{"long name", map[string]string{"com.docker.network.bridge.name": "sixteencharacter"}, []string{"16 bytes", "at most 15"}, ""},
		{"slash", map[string]string{"com.docker.network.bridge.name": "a/b"}, []string{"slash"}, ""},
		{"empty name", map[string]string{"com.docker.network.bridge.name": ""}, []string{"not a device name"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := checkOptions("a bridge network", c.given, known())
			if (err == nil) != (c.words == nil) {
				t.Fatalf("error %v", err)
			}
			if err != nil && !errors.Is(err, ErrOption) {
				t.Errorf("%v is no ErrOption", err)
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error lacks %q: %v", w, err)
				}
			}
			var hint interface{ Hint() string }
			if errors.As(err, &hint) != (c.hint != "") {
				t.Fatalf("hint of %v", err)
			}
			if c.hint != "" && !strings.Contains(hint.Hint(), c.hint) {
				t.Errorf("hint %q lacks %s", hint.Hint(), c.hint)
			}
		})
	}
}

func TestCheckOptionsReportsIgnored(t *testing.T) {
	ignored, err := checkOptions("x", map[string]string{"com.docker.b": "", "com.docker.a": ""}, known())
	if err != nil || len(ignored) != 2 || ignored[0] != "com.docker.a" {
		t.Errorf("%v, %v", ignored, err)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"ab", "ba", 2}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d instead of %d", c.a, c.b, got, c.want)
		}
		if got := editDistance(c.b, c.a); got != c.want {
			t.Errorf("%q, %q: %d instead of %d", c.b, c.a, got, c.want)
		}
	}
}

// FuzzOptions feeds keys and values: no panic, and every refusal names the key.
func FuzzOptions(f *testing.F) {
	f.Add("mode", "bridge")
	f.Add("pubish", "native")
	f.Add("com.docker.network.bridge.name", "a b")
	f.Add("com.docker.\x00", "\xff")
	f.Fuzz(func(t *testing.T, key, value string) {
		_, err := checkOptions("a network", map[string]string{key: value}, known())
		if err == nil {
			return
		}
		if !errors.Is(err, ErrOption) {
			t.Errorf("%v is no ErrOption", err)
		}
		quoted := strings.Contains(err.Error(), key)
		if !quoted && strings.ToValidUTF8(key, "") == key && strings.IndexFunc(key, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) < 0 {
			t.Errorf("the error does not name %q: %v", key, err)
		}
	})
}
