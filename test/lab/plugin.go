//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// PluginName is the name that InstallPlugin gives to the plugin.
const PluginName = "weft:latest"

// pluginLimit bounds enabling and disabling: the engine itself waits long for
// a plugin that does not answer.
const pluginLimit = time.Minute

// InstallPlugin makes PluginName from a directory of the machine that holds
// config.json and rootfs, applies settings of the form NAME=VALUE and enables
// the plugin.
func (h *Host) InstallPlugin(ctx context.Context, dir string, settings ...string) error {
	if err := h.createPlugin(ctx, dir); err != nil {
		return err
	}
	return h.SetUpPlugin(ctx, settings...)
}

// SetUpPlugin applies settings of the form NAME=VALUE to the plugin that the host came
// with, see HostConfig.Plugin, and enables it.
func (h *Host) SetUpPlugin(ctx context.Context, settings ...string) error {
	if len(settings) > 0 {
		if err := h.SetPlugin(ctx, settings...); err != nil {
			return err
		}
	}
	return h.EnablePlugin(ctx)
}

// createPlugin makes PluginName from a directory of the machine.
func (h *Host) createPlugin(ctx context.Context, dir string) error {
	const staging = "/var/tmp/weft-plugin"
	if err := h.CopyIn(ctx, dir, staging); err != nil {
		return err
	}
	_, err := h.Docker(ctx, "plugin", "create", PluginName, staging)
	if _, rmErr := h.Run(ctx, "rm", "-rf", staging); err == nil {
		err = rmErr
	}
	return err
}

// SetPlugin applies settings of the form NAME=VALUE to the disabled plugin.
func (h *Host) SetPlugin(ctx context.Context, settings ...string) error {
	return h.tell(ctx, "/plugins/"+PluginName+"/set", settings)
}

// EnablePlugin enables the plugin and waits until it answers.
func (h *Host) EnablePlugin(ctx context.Context) error {
	ctx, cancel := bounded(ctx, pluginLimit)
	defer cancel()
	return h.tell(ctx, "/plugins/"+PluginName+"/enable?timeout=30", nil)
}

// DisablePlugin disables the plugin; with force also while networks use it.
func (h *Host) DisablePlugin(ctx context.Context, force bool) error {
	ctx, cancel := bounded(ctx, pluginLimit)
	defer cancel()
	return h.tell(ctx, fmt.Sprintf("/plugins/%s/disable?force=%t", PluginName, force), nil)
}

// RemovePlugin removes the disabled plugin; with force an enabled one as well.
func (h *Host) RemovePlugin(ctx context.Context, force bool) error {
	ctx, cancel := bounded(ctx, pluginLimit)
	defer cancel()
	_, err := h.Docker(ctx, "plugin", "rm", fmt.Sprintf("--force=%t", force), PluginName)
	return err
}

// PluginPID is the process ID, in the host, of the plugin's first process, or
// 0 if it does not run. The engine need not run.
func (h *Host) PluginPID(ctx context.Context) (int, error) {
	id, err := h.pluginID(ctx)
	if err != nil {
		return 0, err
	}
	// The shim is told the ID; its child is the plugin.
	const script = `for shim in $(pgrep -f -- "containerd-shim.*-id $0"); do pgrep -P $shim; done; :`
	out, err := h.Run(ctx, "sh", "-c", script, id)
	if err != nil || out == "" {
		return 0, err
	}
	var pid int
	_, err = fmt.Sscan(out, &pid)
	return pid, err
}

// pluginID reads the plugin's ID from the engine's files, since the engine may
// be dead.
func (h *Host) pluginID(ctx context.Context) (string, error) {
	const script = `for f in /var/lib/docker/plugins/*/config.json; do [ ! -e "$f" ] || { cat "$f"; echo; }; done`
	out, err := h.Run(ctx, "sh", "-c", script)
	if err != nil {
		return "", err
	}
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var file struct {
			Plugin struct {
				ID   string `json:"Id"`
				Name string
			} `json:"plugin"`
		}
		if err := d.Decode(&file); err != nil {
			return "", fmt.Errorf("lab: %s: read the engine's plugins: %w", h.Name, err)
		}
		if file.Plugin.Name == PluginName {
			return file.Plugin.ID, nil
		}
	}
	return "", fmt.Errorf("lab: %s: no plugin %s is installed", h.Name, PluginName)
}

// KillPlugin kills the plugin's first process, as a crash would, and waits
// for its end. The engine, if it runs, starts it again.
func (h *Host) KillPlugin(ctx context.Context) error {
	pid, err := h.PluginPID(ctx)
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("lab: %s: the plugin does not run", h.Name)
	}
	if _, err := h.Run(ctx, "kill", "-9", fmt.Sprint(pid)); err != nil {
		return err
	}
	return Until(ctx, "the end of the plugin of "+h.Name, func(ctx context.Context) error {
		if now, err := h.PluginPID(ctx); err != nil || now != pid {
			return err
		}
		return errors.New("it is there")
	})
}

// PluginLog returns the lines that the plugin wrote to its standard streams:
// the engine copies them into its own log.
func (h *Host) PluginLog(ctx context.Context) (string, error) {
	id, err := h.pluginID(ctx)
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	mine := regexp.MustCompile(`plugin=` + regexp.QuoteMeta(id))
	for line := range strings.Lines(h.EngineLog()) {
		if mine.MatchString(line) {
			lines.WriteString(line)
		}
	}
	return lines.String(), nil
}
