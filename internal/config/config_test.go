package config_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/config"
)

func TestParse(t *testing.T) {
	c, err := config.Parse([]string{"PATH=/bin", "WEFT_LOG=debug", "WEFT_SCOPE=", "WEFT_POOLS=10.0.0.0/8/24"})
	if err != nil || c.Log != slog.LevelDebug || c.Scope != "local" || c.Pools != "10.0.0.0/8/24" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, c := range []struct {
		env   string
		words []string
	}{
		{"WEFT_LOG=loud", []string{`WEFT_LOG="loud"`, "debug, info, warn or error"}},
		{"WEFT_SCOPE=swarm", []string{`WEFT_SCOPE="swarm"`, "local or global"}},
		{"WEFT_LOGG=info", []string{"WEFT_LOGG is unknown", "WEFT_LOG"}},
	} {
		_, err := config.Parse([]string{c.env})
		if !errors.Is(err, config.ErrSetting) {
			t.Errorf("%s: %v", c.env, err)
			continue
		}
		for _, w := range c.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error lacks %q: %v", c.env, w, err)
			}
		}
	}
}

// TestEverySettingIsDescribed holds the plugin's config.json and the README to
// the code.
func TestEverySettingIsDescribed(t *testing.T) {
	raw, err := os.ReadFile("../../config.json")
	if err != nil {
		t.Fatal(err)
	}
	var plugin struct {
		Env []struct{ Name, Description, Value string }
	}
	if err := json.Unmarshal(raw, &plugin); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(plugin.Env) != len(config.Settings()) {
		t.Errorf("config.json has %d settings, the code %d", len(plugin.Env), len(config.Settings()))
	}
	for i, s := range config.Settings() {
		if e := plugin.Env[i]; e.Name != s.Name || e.Description != s.Help || e.Value != s.Default {
			t.Errorf("config.json says %+v, the code %s %q %q", e, s.Name, s.Default, s.Help)
		}
		if !strings.Contains(string(readme), "`"+s.Name+"`") {
			t.Errorf("README.md lacks %s", s.Name)
		}
	}
}
