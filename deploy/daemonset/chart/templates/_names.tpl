{{- define "nodemesh.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- with .root.Values.image.registry -}}{{ trimSuffix "/" . }}/{{- end -}}
nodemesh-{{ .part }}:{{ $tag }}
{{- end -}}

{{- define "nodemesh.labels" -}}
app.kubernetes.io/name: nodemesh-{{ .part }}
app.kubernetes.io/part-of: nodemesh
{{- end -}}
